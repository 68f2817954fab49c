"""One function per library: Problem -> Contender, or Cannot with the reason.

Each takes images and parameters in the form it likes best; making that form is not timed.
"""

import importlib
from collections.abc import Callable
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

import stn
from stn import coords

from .problem import Cannot, Contender, Problem
from .training_step import torch_step

Build = Callable[[Problem], Contender]


def torch_(problem: Problem) -> Contender:
    """F.affine_grid and F.grid_sample; half images go through float32."""
    case, image, parameter, _ = problem
    if case.kind == "training":
        return torch_step(problem)
    if case.kind == "antialias":
        raise Cannot("has no antialiased warp")
    if case.kind == "shrink":
        return Contender(lambda x, _: _shrink(x, case.size), image, parameter)
    if case.kind == "grid":
        return Contender(_sample, image, parameter)
    if case.kind == "tps":
        assert case.lattice is not None
        spline = stn.ThinPlateSpline(case.lattice).to(image.device)
        return Contender(
            lambda x, theta: _sample(x, spline.grid(theta, case.size)), image, parameter
        )
    shape = [case.batch, case.channels, *case.size]

    def warp(x: Tensor, matrix: Tensor) -> Tensor:
        return _sample(x, F.affine_grid(matrix, shape, align_corners=False))

    return Contender(warp, image, matrix_of(problem))


def compiled(problem: Problem) -> Contender:
    """torch_ under torch.compile."""
    torch.compiler.reset()
    plain = torch_(problem)
    return plain._replace(run=torch.compile(plain.run))


def kornia(problem: Problem) -> Contender:
    case, image, parameter, _ = problem
    module = _load("kornia.geometry.transform", "kornia")
    if case.kind == "grid" and case.dim == 2:

        def remap(x: Tensor, maps: Tensor) -> Tensor:
            return module.remap(
                x, maps[0], maps[1], align_corners=False, normalized_coordinates=True
            )

        return Contender(remap, image, parameter.movedim(-1, 0).contiguous())
    if case.kind == "tps":
        assert case.lattice is not None
        nodes = stn.ThinPlateSpline(case.lattice).control_points.to(parameter)
        nodes = nodes.expand(case.batch, -1, -1)

        def bend(x: Tensor, source: Tensor) -> Tensor:
            weights, affine = module.get_tps_transform(nodes, source)
            return module.warp_image_tps(x, source, weights, affine)

        differs = "bends otherwise between the control points: its centres move with them"
        return Contender(bend, image, nodes + parameter.view_as(nodes), differs=differs)
    if case.kind != "warp":
        raise Cannot(f"has no {case.dim}-D {case.kind}")
    # In 3-D its matrices are aligned to corners whatever align_corners says.
    matrix = _square(pixel_matrix(problem, align_corners=case.dim == 3))
    matrix = torch.linalg.inv(matrix)[:, :-1].to(parameter.dtype)
    warp = module.warp_affine if case.dim == 2 else module.warp_affine3d

    def run(x: Tensor, m: Tensor) -> Tensor:
        return warp(x.to(m.dtype), m, case.size, align_corners=False).to(x.dtype)

    return Contender(run, image, matrix)


def monai(problem: Problem) -> Contender:
    case, image, _, _ = problem
    layers = _load("monai.networks.layers", "monai")
    if case.kind != "warp":
        raise Cannot(f"has no {case.kind}")
    layer = layers.AffineTransform(
        case.size, normalized=True, align_corners=False, reverse_indexing=False
    )
    return Contender(lambda x, m: layer(x.to(m.dtype), m).to(x.dtype), image, matrix_of(problem))


def interpol(problem: Problem) -> Contender:
    """torch-interpol: points in px, in the order of the axes; its affine_grid takes no batch."""
    case, image, parameter, _ = problem
    module = _load("interpol", "torch-interpol")
    if case.kind == "grid":
        points = coords.to_pixels(parameter, case.input_size, False).flip(-1)
        points = points.to(parameter.dtype).contiguous()
        return Contender(lambda x, grid: module.grid_pull(x, grid, extrapolate=True), image, points)
    if case.kind != "warp":
        raise Cannot(f"has no {case.kind}")
    matrix = pixel_matrix(problem)
    matrix = torch.cat([matrix[..., :-1].flip(-1, -2), matrix[..., -1:].flip(-2)], -1)

    def warp(x: Tensor, m: Tensor) -> Tensor:
        points = module.identity_grid(case.size, m.dtype, m.device).flatten(0, -2)
        grid = (points @ m[..., :-1].mT + m[..., None, :, -1]).unflatten(1, case.size)
        return module.grid_pull(x.to(m.dtype), grid, extrapolate=True).to(x.dtype)

    return Contender(warp, image, matrix.to(parameter.dtype))


def opencv(problem: Problem) -> Contender:
    """One image after another; gradients it has none."""
    case, image, parameter, _ = problem
    cv2 = _load("cv2", "opencv-python-headless")
    if case.dim != 2 or case.kind not in ("warp", "grid"):
        raise Cannot(f"has no {case.dim}-D {case.kind}")
    if image.dtype != torch.float32 or image.device.type != "cpu":
        raise Cannot(f"takes no {case.dtype} images on {image.device.type}")
    cv2.setNumThreads(torch.get_num_threads())
    images = list(image.detach().movedim(1, -1).contiguous().numpy())
    if case.kind == "grid":
        maps = coords.to_pixels(parameter.detach(), case.input_size, False).float().numpy()

        def run(xs, maps):
            return [cv2.remap(x, m, None, cv2.INTER_LINEAR) for x, m in zip(xs, maps, strict=True)]

    else:
        maps = pixel_matrix(problem).detach().numpy()
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        width_first = case.size[::-1]

        def run(xs, maps):
            pairs = zip(xs, maps, strict=True)
            return [cv2.warpAffine(x, m, width_first, flags=flags) for x, m in pairs]

    def to_tensor(outputs) -> Tensor:
        return torch.stack([torch.from_numpy(y).view(*case.size, -1) for y in outputs]).movedim(
            -1, 1
        )

    return Contender(run, images, maps, gradients=False, to_tensor=to_tensor)


RIVALS: dict[str, Build] = {
    "torch": torch_,
    "kornia": kornia,
    "monai": monai,
    "interpol": interpol,
    "opencv": opencv,
}


def matrix_of(problem: Problem) -> Tensor:
    """The affine matrices (B, dim, dim + 1), normalised, target -> source."""
    return stn.Affine(problem.case.dim).matrix(problem.parameter)


def pixel_matrix(problem: Problem, align_corners: bool = False) -> Tensor:
    """The same in pixels, float64: from an index of the output to one of the input."""
    case = problem.case
    axes = torch.eye(case.dim, dtype=torch.float64, device=problem.image.device)
    indices = torch.cat([torch.zeros_like(axes[:1]), axes])
    points = coords.to_normalized(indices, case.size, align_corners)
    theta = problem.parameter.double()
    source = stn.Affine(case.dim).map_points(theta, points)
    source = coords.to_pixels(source, case.input_size, align_corners)
    origin = source[:, :1]
    return torch.cat([(source[:, 1:] - origin), origin], 1).mT


def _square(matrix: Tensor) -> Tensor:
    last = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)[-1:]
    return torch.cat([matrix, last.expand(len(matrix), 1, -1)], 1)


def _sample(image: Tensor, grid: Tensor) -> Tensor:
    wide = image.to(grid.dtype)
    return F.grid_sample(wide, grid, align_corners=False).to(image.dtype)


def _shrink(image: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(image, size, mode="bilinear", antialias=True)


def _load(module: str, distribution: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Cannot(f"cannot be imported ({error}); pip install {distribution}") from None
