"""Naming single pictures by a trained network, and where it looked."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import coords
from ..data import read_picture, to_canvas
from ..models import NetSpec, load_model, read_config, read_spec
from ..viz import Examples, answer, collect_examples, draw_examples, inspect

SHOWN_PX = 512  # longest side of the pictures that are drawn


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
    model = load_model(folder, trust_code=trust_code)
    config, spec = read_config(folder), read_spec(folder)
    if len(spec.shape) != 3:
        raise ValueError(f"{folder} looks at volumes, not at image files")
    if isinstance(spec, NetSpec) and spec.stem:
        raise ValueError(f"{folder} transforms feature maps, whose regions cannot be drawn")
    channels, *size = spec.shape
    if channels not in (1, 3):
        raise ValueError(f"{folder} looks at {channels} channels, image files have 1 or 3")
    names = tuple(config.get("names") or map(str, range(config["net"]["classes"])))
    fit = config.get("fit", "pad")
    for path in pictures:
        canvas = read_picture(path, size, channels, fit).unsqueeze(0).float() / 255
        with torch.no_grad():
            chances = model(canvas)[0].softmax(-1)
        chosen = chances.argmax(-1)
        seen = collect_examples(model, canvas, chosen.unsqueeze(0), 1, names)
        whole = read_picture(path, None, channels)
        place = partial(_on_the_picture, canvas=tuple(size), size=tuple(whole.shape[1:]), fit=fit)
        grids = None
        if seen.grids is not None:
            px = coords.to_pixels(seen.grids, size, seen.align_corners) + 0.5
            grids = (2 * place(px) - 1).float()
        told = {
            "image": str(path),
            "label": answer(chosen, names),
            "probability": float(seen.confidence[0]),
            "probabilities": _by_name(chances, names),
            "regions": _regions(model, canvas, place, tuple(whole.shape[1:])),
        }
        shown = _shrunk(whole)
        yield Prediction(told, seen._replace(inputs=shown.unsqueeze(0), grids=grids))


def draw_prediction(prediction: Prediction, folder: Path, taken: set[Path]) -> Path:
    """Draw what was looked at into `folder`, as a PNG named after the picture.

    `taken` are the names given already, to which this one is added: none is drawn over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(prediction.told["image"])
    path, number = folder / f"{source.stem}.png", 1
    while path in taken:
        number += 1
        path = path.with_name(f"{source.stem}-{number}.png")
    taken.add(path)
    draw_examples(prediction.seen, path, source.name)
    return path


def _by_name(chances: Tensor, names: Sequence[str]) -> dict | list:
    if chances.dim() > 1:
        return [_by_name(part, names) for part in chances]
    return dict(zip(names, chances.tolist(), strict=True))


def _on_the_picture(px: Tensor, canvas: tuple[int, ...], size: tuple[int, ...], fit: str) -> Tensor:
    """Points of the canvas, px, as shares of the picture itself, which may be larger or oblong."""
    height, width = size
    ends = torch.tensor([[0.0, 0.0], [width, height]])
    low, high = to_canvas(ends, (height, width), canvas, fit)
    return (px - low) / (high - low)


@torch.no_grad()
def _regions(
    model: nn.Module,
    canvas: Tensor,
    place: Callable[[Tensor], Tensor],
    size: tuple[int, ...],
) -> list[list[list[float] | None]]:
    """The corners of every window, px of the picture of `size`."""
    seen = inspect(model, canvas)
    if seen is None:
        return []
    theta = seen.theta[0]
    square = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    corners = seen.transform.map_points(theta.view(-1, theta.shape[-1]), square)
    height, width = canvas.shape[-2:]
    share = place((corners + 1) / 2 * torch.tensor([width, height]))
    px = (share * torch.tensor([size[1], size[0]])).round(decimals=2)
    return [
        [point if all(map(math.isfinite, point)) else None for point in window]
        for window in px.tolist()
    ]


def _shrunk(picture: Tensor) -> Tensor:
    image = picture.float() / 255
    longest = max(image.shape[1:])
    if longest <= SHOWN_PX:
        return image
    size = [max(1, round(n * SHOWN_PX / longest)) for n in image.shape[1:]]
    return torch.nn.functional.interpolate(
        image.unsqueeze(0), size, mode="bilinear", antialias=True
    )[0]
