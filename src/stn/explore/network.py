"""The network tab: a picture, distorted by hand, and what a trained network makes of it."""

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import coords
from ..data import DataError, read_picture
from ..data.pictures import picture_size
from ..models import NetSpec, load_model, read_config, read_spec
from ..models.folder import class_names
from ..transforms import Compose, Projective, ThinPlateSpline
from ..viz.overlays import answer, inspect, read_answers
from ..warp import warp

LATTICE = (3, 3)
PAD_PX = 112  # of the square that is drawn on
DIGIT_PX = 20.0  # longer side of MNIST's digits
DIGIT_CANVAS_PX = 28


class Source(NamedTuple):
    """An image (C, h, w) in [0, 1], and how it lies on the canvas before it is distorted.

    centre_px (x, y), from the image's outer edge, lies in the middle of the canvas; a pixel of the
    image is scales (x, y) pixels of the canvas wide.
    """

    image: Tensor
    centre_px: tuple[float, float]
    scales: tuple[float, float]


class Distortion(NamedTuple):
    """What is done to the image: turned clockwise, scaled, tilted, shifted, then bent.

    Shifts are in the canvas's longer side; tilts are how much nearer one edge comes than the
    middle; `points` (9, 2) are where the nodes of a 3 x 3 lattice are dragged, normalised.
    """

    angle_deg: float = 0.0
    scale: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    tilt_x: float = 0.0
    tilt_y: float = 0.0
    points: Tensor | None = None


class Look(NamedTuple):
    """One image that the network has seen.

    canvas: (C, H, W), as it was seen. outputs: (K, C, h, w) and grids (K, …, 2) of `lattice()`.
    theta: (K, P). chances: (classes,) or, of answers of parts, (parts, classes).
    """

    canvas: Tensor
    outputs: Tensor
    grids: Tensor
    theta: Tensor
    words: list[str]
    chances: Tensor
    answer: str


class Viewer:
    """A trained network that is looked at: of a run or a published model.

    Args:
        folder: as in `load_model`.
        trust_code: as in `load_model`.

    Raises:
        ValueError: no such run, or one whose network does not look at pictures as they are.
    """

    def __init__(self, folder: str | Path, trust_code: bool = False):
        folder = Path(folder)
        self.folder = folder
        self.model = load_model(folder, trust_code=trust_code)
        config, spec = read_config(folder), read_spec(folder)
        if len(spec.shape) != 3 or spec.shape[0] not in (1, 3):
            raise ValueError(
                f"{folder} looks at images of shape {tuple(spec.shape)}; the explorer shows those "
                "of one channel or three: leave the folder out, or name another run"
            )
        if isinstance(spec, NetSpec) and spec.stem:
            raise ValueError(
                f"{folder} transforms feature maps, whose regions cannot be drawn: name another run"
            )
        known = [str(config[key]) for key in ("recipe", "model") if key in config]
        self.title = ", ".join(known) or folder.resolve().name
        self.channels, *size = spec.shape
        self.size = (size[0], size[1])
        self.names = class_names(config, spec)
        self.fit = config.get("fit", "pad")
        self.digits = isinstance(spec, NetSpec)
        self._lock = Lock()  # one forward pass at a time: they would only share the same cores
        self._shown: Tensor | None = None

    @torch.no_grad()
    def look(self, source: Source, distortion: Distortion, lattice: Tensor) -> Look:
        """Distort an image, and show it to the network."""
        canvas = distort(source, distortion, self.size).unsqueeze(0)
        with self._lock:
            logits = self.model(canvas)[0]
            seen = inspect(self.model, canvas)
        classes, _ = read_answers(logits.unsqueeze(0))
        chances, said = logits.softmax(-1), answer(classes[0], self.names)
        if seen is None:
            none = canvas[:0]
            return Look(canvas[0], none, none, none, [], chances, said)
        theta = seen.theta.view(-1, seen.theta.shape[-1])
        outputs = seen.output.view(len(theta), *seen.output.shape[-3:])
        points = lattice.view(-1, 2)
        grids = seen.transform.map_points(theta, points).view(len(theta), *lattice.shape)
        slopes, middles = (
            f(theta, torch.zeros(1, 2))[:, 0]
            for f in (seen.transform.jacobian, seen.transform.map_points)
        )
        told = [
            in_words(slope, middle, self.size)
            for slope, middle in zip(slopes, middles, strict=True)
        ]
        return Look(canvas[0], outputs, grids, theta, told, chances, said)

    def source_of_picture(self, picture: Tensor) -> Source:
        """An image (3, h, w) in [0, 1], put on the canvas as in training."""
        image = picture if self.channels == 3 else picture.mean(0, keepdim=True)
        height, width = image.shape[-2:]
        across, down = self.size[1] / width, self.size[0] / height
        if self.fit != "stretch":
            across = down = (max if self.fit == "crop" else min)(across, down)
        return Source(image, (width / 2, height / 2), (across, down))

    def source_of_drawing(self, drawing: Tensor) -> Source:
        """A digit (1, h, w), white on black, made as large as MNIST's and centred by its mass."""
        image = drawing.expand(self.channels, -1, -1)
        height, width = drawing.shape[-2:]
        ink = drawing[0] > 0.2
        if not bool(ink.any()):
            scale = DIGIT_CANVAS_PX / max(height, width)
            return Source(image, (width / 2, height / 2), (scale, scale))
        rows, columns = (ink.any(axis).nonzero() for axis in (1, 0))
        longer = max(int(rows[-1] - rows[0]), int(columns[-1] - columns[0])) + 1
        mass = drawing[0] / drawing[0].sum()
        x = float((mass.sum(0) * (torch.arange(width) + 0.5)).sum())
        y = float((mass.sum(1) * (torch.arange(height) + 0.5)).sum())
        scale = DIGIT_PX / longer
        return Source(image, (x, y), (scale, scale))

    def source_of_test(self, number: int) -> Source:
        """A test image of the run's own data; it lies on the canvas as it is.

        Raises:
            ValueError, OSError: the data is not here.
        """
        from ..recipes import read_experiment

        if self._shown is None:
            experiment = read_experiment(self.folder / "config.json")
            self._shown = experiment.shown(experiment.load()).images
        image = self._shown[number % len(self._shown)].float()
        return Source(image, (self.size[1] / 2, self.size[0] / 2), (1.0, 1.0))


def distort(source: Source, distortion: Distortion, size: tuple[int, int]) -> Tensor:
    """The source on a canvas (H, W), distorted: (C, H, W)."""
    nodes = coords.lattice_points(LATTICE)
    points = nodes if distortion.points is None else distortion.points.double()
    bend, plane = ThinPlateSpline(LATTICE), Projective()
    # What lies at a node is seen at its point: the spline takes points back to nodes.
    theta = torch.cat(
        [
            plane.from_matrix(_back(source, distortion, size).unsqueeze(0)),
            bend.fit(points, nodes).to(torch.float64),
        ],
        -1,
    )
    drawn = warp(
        source.image.unsqueeze(0), Compose(plane, bend), theta.float(), size, antialias=True
    )
    return drawn[0].clamp(0, 1)


def _back(source: Source, d: Distortion, size: tuple[int, int]) -> Tensor:
    """The matrix (3, 3), normalised, that takes places of the canvas to places of the source."""
    longer = max(size) / 2
    angle = math.radians(d.angle_deg)
    cos, sin = math.cos(angle) * d.scale, math.sin(angle) * d.scale
    turned = _matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    tilted = _matrix([[1, 0, 0], [0, 1, 0], [d.tilt_x / longer, d.tilt_y / longer, 1]])
    shift = 2 * longer
    shifted = _matrix([[1, 0, d.shift_x * shift], [0, 1, d.shift_y * shift], [0, 0, 1]])
    (across, down), (x, y) = source.scales, source.centre_px
    scaled = _matrix([[across, 0, 0], [0, down, 0], [0, 0, 1]])
    moved = shifted @ tilted @ turned @ scaled  # px, about the middles
    from_source = _px_about(source.image.shape[-2:], (x, y))
    from_canvas = _px_about(size, (size[1] / 2, size[0] / 2))
    back = torch.linalg.inv(moved @ from_source) @ from_canvas
    return back / back[2, 2]


def _px_about(size: Sequence[int], middle_px: tuple[float, float]) -> Tensor:
    """The matrix (3, 3) from normalised places to px about one, which counts from the edge."""
    origin, right, down = coords.to_pixels(torch.tensor([[0.0, 0], [1, 0], [0, 1]]), size, False)
    offset = origin + 0.5 - torch.tensor(middle_px)
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[:2] = torch.stack([right - origin, down - origin, offset], -1)
    return matrix


def _matrix(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def in_words(slope: Tensor, middle: Tensor, size: tuple[int, int]) -> str:
    """What a map reads of an image of `size`, from its slope (2, 2) and place in the middle."""
    if not bool(slope.isfinite().all() and middle.isfinite().all()):
        return "Looks nowhere: theta is not finite."
    px = coords.jacobian_pixels(slope - torch.eye(2), size, size, False)
    angle = math.degrees(math.atan2(float(px[1, 0] - px[0, 1]), float(px[0, 0] + px[1, 1])))
    low, high = sorted(torch.linalg.svdvals(px).tolist())
    if float(torch.linalg.det(px)) < 0:
        turned = "mirrored"
    elif abs(angle) < 0.5:
        turned = "upright"
    else:
        turned = f"turned by {abs(angle):.0f}° {'clockwise' if angle > 0 else 'anticlockwise'}"
    share = f"{100 * low:.0f} %" if high < 1.05 * low else f"{100 * low:.0f} to {100 * high:.0f} %"
    there, here = coords.to_pixels(torch.stack([middle, torch.zeros(2)]), size, False)
    x, y = (there - here).tolist()
    across = f"{abs(x):.1f} px {'right' if x > 0 else 'left'}"
    down = f"{abs(y):.1f} px {'below' if y > 0 else 'above'}"
    return f"Looks at {share} of the image's size, {turned}, {across} of and {down} the middle."


def typed_digit(digit: int) -> Tensor:
    """A digit (1, 112, 112) set in matplotlib's DejaVu, white on black, to begin with."""
    from importlib.resources import files

    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    face = files("matplotlib") / "mpl-data/fonts/ttf/DejaVuSans.ttf"
    image = Image.new("L", (PAD_PX, PAD_PX))
    font = ImageFont.truetype(str(face), 92)
    middle = (PAD_PX / 2, PAD_PX / 2)
    ImageDraw.Draw(image).text(middle, str(digit), fill=255, font=font, anchor="mm")
    return torch.from_numpy(np.array(image))[None].float() / 255


def read_drawing(address: Any) -> Tensor:
    """The drawing (1, 112, 112) in [0, 1] behind the page's data: address.

    Raises:
        DataError: it is no PNG of this size.
    """
    head, _, body = str(address).partition(",")
    try:
        if head != "data:image/png;base64" or len(body) > 200_000:
            raise ValueError
        content = base64.b64decode(body, validate=True)
        if picture_size(content) != (PAD_PX, PAD_PX):  # from its head: a bomb is small, too
            raise ValueError
    except ValueError:
        raise DataError("the drawing is no PNG of the drawing square; clear it") from None
    return read_picture(content, None, 1, name="the drawing").float() / 255
