"""The film of a training: the grid bending over the same images, and what came out of it."""

import html
import json
from typing import NamedTuple

import torch
from torch import Tensor

from ..nn import diagnose
from ..nn.transformer import Transformer
from ..training.frames import Frames
from .charts import short_number
from .pictures import (
    displayable,
    grid_lines,
    image_address,
    margin_for,
    path_of,
    picture,
    region_class,
)
from .survey import DIAGNOSED

MOMENTS = 30  # shown
WINDOWS = 6  # shown, of all images
OUTPUT_PX = 64  # longest side of an output


class Film(NamedTuple):
    """Of n images, K transformers side by side and T moments.

    steps: of training, T numbers.
    images: (n, C, H, W).
    paths: SVG paths of the grid, [n][K][T]; reach: points (M, 2) of them all, px.
    outputs: strips (n, K, [C,] T h, w), moments from top to bottom.
    """

    steps: list[int]
    images: Tensor
    paths: list[list[list[str]]]
    reach: Tensor
    outputs: Tensor


@torch.no_grad()
def diagnosed(layer: Transformer, frames: Frames, samples_per_step: int) -> list[dict[str, float]]:
    """Lines as those of metrics.jsonl: what the watched warps were like at every moment.

    `outside_percent` and `folded_percent` of the outputs' pixels, and `scale` of the windows, means
    over images, as `stn.nn.diagnose` has them.
    """
    lines = []
    for step, theta in zip(frames.steps.tolist(), frames.theta, strict=True):
        found = diagnose(layer.composed(), theta, DIAGNOSED, layer.align_corners)
        lines.append(
            {
                "samples_seen": step * samples_per_step,
                "outside_percent": 100 * found.outside.mean().item(),
                "folded_percent": 100 * found.folded.mean().item(),
                "scale": found.scale.mean().item(),
            }
        )
    return lines


@torch.no_grad()
def make_film(layer: Transformer, frames: Frames) -> Film | None:
    """The film of what a transformer did, with its grids and outputs; None of volumes."""
    transform = layer.composed()
    if transform.dim != 2:
        return None
    windows = 1 if frames.theta.dim() == 3 else frames.theta.shape[2]
    images = frames.images[: max(1, WINDOWS // windows)]
    count, size = len(images), tuple(images.shape[-2:])
    last = len(frames.steps) - 1
    rows = torch.linspace(0, last, min(MOMENTS, last + 1)).round().long()
    theta = frames.theta[rows, :count]
    flat = theta.reshape(-1, theta.shape[-1])
    align = layer.align_corners
    lines = [
        line.unflatten(0, (len(rows), count, windows))
        for line in grid_lines(transform, flat, size, per_cell=1, align_corners=align)
    ]
    paths = [
        [[path_of([line[t, i, k] for line in lines], size) for t in range(len(rows))]
         for k in range(windows)]
        for i in range(count)
    ]  # fmt: skip
    outputs = torch.stack([layer.warp(images, own) for own in theta], 1).float()
    outputs = outputs.unsqueeze(2) if theta.dim() == 3 else outputs
    return Film(
        frames.steps[rows].tolist(),
        images,
        paths,
        torch.cat(lines, -2).flatten(0, -2),
        _strips(outputs),
    )


def _strips(outputs: Tensor) -> Tensor:
    """(n, T, K, C, h, w) as (n, K, C, T h, w), shrunk to what a page shows."""
    height, width = outputs.shape[-2:]
    if (longest := max(height, width)) > OUTPUT_PX:
        size = [max(1, round(n * OUTPUT_PX / longest)) for n in (height, width)]
        small = torch.nn.functional.interpolate(
            outputs.flatten(0, 2), size, mode="bilinear", antialias=True
        )
        outputs = small.unflatten(0, outputs.shape[:3])
    return outputs.permute(0, 2, 3, 1, 4, 5).flatten(3, 4)


def film_section(film: Film, samples_per_step: int) -> str:
    """The pictures with the last moment drawn, and controls that a script brings to life."""
    told = [f"after {short_number(step * samples_per_step)} images" for step in film.steps]
    told[0] = "before training" if film.steps[0] == 0 else told[0]
    margin = margin_for(film.reach, film.images.shape[-2:])
    tiles = "".join(_tile(film, i, margin) for i in range(len(film.images)))
    data = json.dumps(
        {"told": told, "paths": [own for image in film.paths for own in image]},
        separators=(",", ":"),
    )
    return (
        '<h3>How it learned to look</h3><p class="soft">Held-out images, the same ones all along '
        "the training. The grid is what the transformer read, the picture below what came out.</p>"
        f'<div class="film"><ul class="examples">{tiles}</ul><div class="controls" hidden>'
        '<button type="button">Play</button>'
        f'<input type="range" min="0" max="{len(told) - 1}" value="{len(told) - 1}" '
        f'aria-label="Moment of the training"><output>{html.escape(told[-1])}</output></div>'
        f'<script type="application/json">{data}</script></div>'
    )


def _tile(film: Film, i: int, margin: float) -> str:
    image, moments = film.images[i], len(film.steps)
    paths = "".join(
        f'<path class="{kind} {region_class(k)}" transform="scale(.1)" d="{own[-1]}"/>'
        for k, own in enumerate(film.paths[i])
        for kind in ("halo", "bent")
    )
    above = picture(image, margin, paths, "Held-out image with the grid that was read")
    return f"<li>{above}{''.join(_strip(strip, moments) for strip in film.outputs[i])}</li>"


def _strip(strip: Tensor, moments: int) -> str:
    height, width = displayable(strip).shape[:2]
    one = height // moments
    return (
        f'<svg class="picture strip" viewBox="0 {height - one} {width} {one}" role="img" '
        f'aria-label="What the transformer made of it"><image class="pixels" '
        f'href="{image_address(strip)}" width="{width}" height="{height}"/></svg>'
    )
