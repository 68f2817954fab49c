"""Who takes part in a case: stn, its rivals, and a plain copy, which is the bound."""

from collections.abc import Callable

import torch
from torch import Tensor

import stn
from stn.sampling import dispatch

from .cases import Case
from .problem import Contender, Problem
from .rivals import RIVALS, Build, compiled
from .training_step import stn_step


def stn_(problem: Problem) -> Contender:
    """stn as it comes: the backend that it picks itself."""
    case, image, parameter, _ = problem
    if case.kind == "training":
        return stn_step(problem)
    if case.kind == "grid":
        return Contender(stn.grid_sample, image, parameter)
    transform = stn.Affine(case.dim) if case.lattice is None else stn.ThinPlateSpline(case.lattice)
    transform.to(image.device)
    antialias = is_antialiased(case)

    def warp(x: Tensor, theta: Tensor) -> Tensor:
        return stn.warp(x, transform, theta, case.size, antialias=antialias)

    return Contender(warp, image, parameter)


def compiled_stn(problem: Problem) -> Contender:
    """stn under torch.compile, as one graph."""
    torch.compiler.reset()
    eager = stn_(problem)
    return eager._replace(run=torch.compile(eager.run, fullgraph=True))


def plain(problem: Problem) -> Contender:
    """stn without antialiasing at the input's own size: what an antialiased warp should cost."""
    affine = stn.Affine(problem.case.dim)

    def warp(x: Tensor, theta: Tensor) -> Tensor:
        return stn.warp(x, affine, theta)

    differs = "is the plain warp to the input's own size"
    return Contender(warp, problem.image, problem.parameter, differs=differs)


def reference(problem: Problem) -> Contender:
    """stn's plain PyTorch, antialiased: nobody else has such a warp."""
    affine, size = stn.Affine(problem.case.dim), problem.case.size

    def warp(x: Tensor, theta: Tensor) -> Tensor:
        return stn.warp(x, affine, theta, size, antialias=True, backend="reference")

    return Contender(warp, problem.image, problem.parameter)


def is_antialiased(case: Case) -> bool:
    return case.kind in ("antialias", "shrink")


def contenders_of(case: Case, with_compiled: bool) -> dict[str, Build]:
    """By name: stn first, then its baseline and rivals."""
    if case.kind == "antialias":
        return {"stn": stn_, "plain": plain}
    found = {"stn": stn_, **RIVALS}
    if case.kind in ("training", "shrink"):
        found = {"stn": stn_, "torch": RIVALS["torch"]}
    if case.kind == "tps":
        found = {name: found[name] for name in ("stn", "torch", "kornia")}
    if with_compiled:
        found |= {"torch.compile": compiled, "stn.compile": compiled_stn}
    return found


def truth_of(case: Case) -> Build:
    """Whose float64 result is the right one."""
    return reference if case.kind == "antialias" else RIVALS["torch"]


def compulsory_bytes(problem: Problem, direction: str) -> int:
    """What must be moved: images and outputs once per pass, given grids, gradients."""
    image, grid = problem.image.nbytes, 0
    if problem.case.kind == "grid":
        grid = problem.parameter.nbytes
    once = image + problem.cotangent.nbytes
    if direction == "forward":
        return once + grid
    return 2 * once + 3 * grid + (image if direction == "both" else 0)


def copy_of(total_bytes: int, device: str) -> Callable[[], Tensor]:
    """A copy that moves so many bytes, reading half and writing half: the bandwidth bound."""
    source = torch.ones(max(1, total_bytes // 2), dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


def backend_of(problem: Problem) -> str:
    """The backend that stn picks for a case."""
    case, image = problem.case, problem.image
    antialias = is_antialiased(case)
    device, dtype = image.device.type, image.dtype
    call = dispatch.Call(case.dim, "bilinear", "zeros", False, antialias, device, dtype)
    return dispatch.choose(call)
