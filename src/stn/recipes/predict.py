"""Naming single pictures by a trained network, and where it looked."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import coords
from ..data import read_picture, to_canvas
from ..data.pictures import picture_size, read_shown
from ..models import NetSpec, load_model, read_config, read_spec
from ..models.folder import class_names
from ..viz import Examples, collect_examples, draw_examples
from ..viz.overlays import answer, inspect, untaken


class Prediction(NamedTuple):
    """`told`, what JSON can hold; `seen`, the picture with what was looked at."""

    told: dict
    seen: Examples


def predict(
    folder: Path, pictures: Sequence[Path], trust_code: bool = False
) -> Iterator[Prediction]:
    """Name pictures, put on the canvas as in training, one after the other.

    Args:
        folder: of a run or a published model.
        pictures: image files.
        trust_code: as in `load_model`.

    Yields:
        Predictions. `told` has "image", "label", "probability" of the whole label,
        "probabilities" of all classes (of answers of several parts a list of them), and "regions":
        of each transformer the corners of what it read, px of the image, from its outer edge, in
        the order top left, top right, bottom right, bottom left of its output; None where a corner
        lies nowhere.

    Raises:
        ValueError: no such run, or an image that cannot be read; it names the file.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file, no run or model: name the folder first, then images")
    for path in pictures:
        if path.is_dir():
            raise ValueError(f"{path} is a folder: name its files, {path / '*'}")
    model = load_model(folder, trust_code=trust_code)
    config, spec = read_config(folder), read_spec(folder)
    if len(spec.shape) != 3:
        raise ValueError(f"{folder} looks at volumes, not at image files")
    if isinstance(spec, NetSpec) and spec.stem:
        raise ValueError(f"{folder} transforms feature maps, whose regions cannot be drawn")
    channels, *size = spec.shape
    if channels not in (1, 3):
        raise ValueError(f"{folder} looks at {channels} channels, image files have 1 or 3")
    names = class_names(config, spec)
    fit = config.get("fit", "pad")
    for path in pictures:
        canvas = read_picture(path, size, channels, fit).unsqueeze(0).float() / 255
        with torch.no_grad():
            chances = model(canvas)[0].softmax(-1)
        chosen = chances.argmax(-1)
        seen = collect_examples(model, canvas, chosen.unsqueeze(0), 1, names)
        place = _Place(tuple(size), picture_size(path), fit, seen.align_corners)
        grids = None
        if seen.grids is not None:
            grids = coords.to_normalized(place(seen.grids), place.size, False).float()
        told = {
            "image": str(path),
            "label": answer(chosen, names),
            "probability": float(seen.confidence[0]),
            "probabilities": _by_name(chances, names),
            "regions": _regions(model, canvas, place),
        }
        shown = read_shown(path, channels).unsqueeze(0).float() / 255
        yield Prediction(told, seen._replace(inputs=shown, grids=grids, align_corners=False))


def draw_prediction(prediction: Prediction, folder: Path, taken: set[Path]) -> Path:
    """Draw what was looked at into `folder`, as a PNG named after the picture.

    `taken` are the names given already, to which this one is added: none is drawn over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(prediction.told["image"])
    path = untaken(folder / f"{source.stem}.png", taken)
    draw_examples(prediction.seen, path, source.name)
    return path


def _by_name(chances: Tensor, names: Sequence[str]) -> dict | list:
    if chances.dim() > 1:
        return [_by_name(part, names) for part in chances]
    return dict(zip(names, chances.tolist(), strict=True))


class _Place(NamedTuple):
    """How the canvas, seen in coordinates of `align_corners`, lies on a picture of `size`."""

    canvas: tuple[int, ...]
    size: tuple[int, int]
    fit: str
    align_corners: bool

    def __call__(self, points: Tensor) -> Tensor:
        """Points of the canvas, normalised, as px of the picture from its first pixel's centre."""
        height, width = self.size
        ends = torch.tensor([[0.0, 0.0], [width, height]])
        low, high = to_canvas(ends, self.size, self.canvas, self.fit)
        px = coords.to_pixels(points, self.canvas, self.align_corners) + 0.5
        return (px - low) / (high - low) * ends[1] - 0.5


@torch.no_grad()
def _regions(model: nn.Module, canvas: Tensor, place: _Place) -> list[list[list[float] | None]]:
    """The corners of every window, px of the picture from its outer edge."""
    seen = inspect(model, canvas)
    if seen is None:
        return []
    theta = seen.theta[0]
    square = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    corners = seen.transform.map_points(theta.view(-1, theta.shape[-1]), square)
    px = (place(corners) + 0.5).round(decimals=2)
    return [
        [point if all(map(math.isfinite, point)) else None for point in window]
        for window in px.tolist()
    ]
