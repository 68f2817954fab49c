"""Example images: where a transformer looked, what it made of it, and what was read there."""

import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import coords
from ..evaluation import logits_of
from ..nn import WarpResult
from ..training.checkpoint import write_atomically
from .pictures import REGIONS, displayable, margin_for, polylines

COLUMNS = 10
KINDS = {
    "random": "Drawn at random",
    "worst": "Highest loss: the worst",
    "best": "Lowest loss: the best",
}
RIGHT, WRONG = "#1a1c1e", "#b3261e"


class Examples(NamedTuple):
    """Images that a classifier has read, on the CPU.

    inputs: (N, H, W) or (N, C, H, W), in [0, 1]; of volumes the mean over their depth.
    outputs: of the K transformers side by side, (N, K, h, w) or (N, K, C, h, w); K is 0 for a net
        without one.
    grids: where the outputs were read, (N, K, h, w, 2), normalised; None without a transformer, and
        for volumes.
    labels, predictions: true and most likely classes (N,), or of answers of parts (N, parts).
    confidence: probability (N,) of the prediction.
    align_corners: what +-1 means in `grids`.
    names: of the classes; None for their numbers.
    kinds: of each why it was chosen, a key of `KINDS`.
    """

    inputs: Tensor
    outputs: Tensor
    grids: Tensor | None
    labels: Tensor
    predictions: Tensor
    confidence: Tensor
    align_corners: bool = False
    names: tuple[str, ...] | None = None
    kinds: tuple[str, ...] = ()

    def words(self, i: int) -> tuple[str, str]:
        """The true and the most likely answer for example i, in words."""
        return answer(self.labels[i], self.names), answer(self.predictions[i], self.names)


def answer(classes: Tensor, names: tuple[str, ...] | None = None) -> str:
    """A class, or those of the parts of an answer one after the other, by name."""
    numbers: list[int] = classes.flatten().tolist()
    return "".join(str(number) if names is None else names[number] for number in numbers)


def read_answers(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The most likely classes (N,) or (N, parts), and the probability (N,) of the whole answer."""
    likely, classes = logits.log_softmax(-1).max(-1)
    return classes, likely.view(len(logits), -1).sum(-1).exp()


@torch.no_grad()
def collect_examples(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    count: int,
    names: tuple[str, ...] | None = None,
) -> Examples:
    """Run `model` on all images and keep `count`: a third at random, a third with the highest
    loss, a third with the lowest, in this order.

    The choice is a function of the arguments alone.

    Args:
        model: a classifier; its attribute `transformer`, if it has one that is not None, is the
            layer to look at.
        images: (N, C, H, W) or (N, C, D, H, W) in [0, 1], on the model's device.
        labels: (N,) whole numbers, or (N, parts).
        count: how many examples, at least 1; N if there are fewer images.
        names: of the classes.

    Raises:
        ValueError: no images or `count` below 1.
    """
    if count < 1 or len(images) < 1:
        raise ValueError(f"count and images must be at least 1, got {count} and {len(images)}")
    logits = logits_of(model, images)
    predictions, confidence = read_answers(logits)
    labels = labels.to(logits.device)
    likely = logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1))
    truth = likely.view(len(logits), -1).sum(-1)
    kinds = _choose(truth, count)
    chosen = torch.tensor([i for kind in kinds.values() for i in kind])
    inputs = images[chosen.to(images.device)]
    seen = inspect(model, inputs)
    return Examples(
        flat(inputs, 4).cpu(),
        inputs[:, None][:, :0].cpu() if seen is None else outputs_of(seen).cpu(),
        None if seen is None else _grids(seen),
        labels.cpu()[chosen],
        predictions.cpu()[chosen],
        confidence.cpu()[chosen],
        seen is not None and seen.align_corners,
        names,
        tuple(kind for kind, found in kinds.items() for _ in found),
    )


def flat(images: Tensor, dims: int) -> Tensor:
    """Images of `dims` axes as they are; volumes, which have one more, by the mean over depth."""
    return images if images.dim() == dims else images.mean(-3)


def outputs_of(seen: WarpResult) -> Tensor:
    """(N, K, C, h, w)."""
    one = seen.theta.dim() == 2
    return flat(seen.output.unsqueeze(1) if one else seen.output, 5)


def _grids(seen: WarpResult) -> Tensor | None:
    """(N, K, h, w, 2); None for volumes."""
    if seen.transform.dim != 2:
        return None
    return (seen.grid.unsqueeze(1) if seen.theta.dim() == 2 else seen.grid).cpu()


def region_outline(grid: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """The border of the region that a grid reads, as a closed line.

    Args:
        grid: (h, w, 2), normalised.
        size: (H, W) of the image that it reads.
        align_corners: what +-1 means in the grid.

    Returns:
        Points (M, 2), px, the last equal to the first; the line starts at the output's top left
        corner and runs along its top edge. Not finite where the grid is not.

    Example:
        >>> import stn.viz
        >>> grid = stn.Affine().grid(torch.zeros(1, 6), (3, 4))[0]
        >>> outline = stn.viz.region_outline(grid, (3, 4)).round().int()
        >>> outline.amin(0).tolist(), outline.amax(0).tolist()
        ([0, 0], [3, 2])
    """
    px = coords.to_pixels(grid, size, align_corners)
    top, right = px[0, :-1], px[:-1, -1]
    bottom, left = px[-1, 1:].flip(0), px[1:, 0].flip(0)
    return torch.cat([top, right, bottom, left, px[:1, 0]])


def outlines_of(examples: Examples) -> Tensor | None:
    """`region_outline` of all examples, (N, K, M, 2); None without grids."""
    if examples.grids is None:
        return None
    size = tuple(examples.inputs.shape[-2:])
    grids = examples.grids.flatten(0, 1)
    lines = [region_outline(grid, size, examples.align_corners) for grid in grids]
    return torch.stack(lines).unflatten(0, examples.grids.shape[:2])


def untaken(path: Path, taken: set[Path]) -> Path:
    """The path, numbered if it is among those that are `taken`, to which it is added."""
    first, number = path, 1
    while path in taken:
        number += 1
        path = first.with_stem(f"{first.stem}-{number}")
    taken.add(path)
    return path


def draw_examples(examples: Examples, path: Path, title: str) -> None:
    """Write a PNG: each example a column, the input with the regions above, the outputs below.

    The dot marks the corner that becomes the output's top left. Mistakes are red.
    """
    from matplotlib.figure import Figure

    count = len(examples.labels)
    size = tuple(examples.inputs.shape[-2:])
    outlines = outlines_of(examples)
    margin = 0.0 if outlines is None else margin_for(outlines, size)
    deep = 1 + examples.outputs.shape[1]
    columns = min(count, COLUMNS)
    blocks = -(-count // COLUMNS)
    figure = Figure(
        figsize=(max(1.15 * columns, 4), blocks * (1.15 * deep + 0.45) + 0.4), layout="constrained"
    )
    figure.suptitle(title, fontsize=11, parse_math=False)
    axes = figure.subplots(blocks * deep, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i in range(count):
        block, column = divmod(i, COLUMNS)
        above = axes[block * deep, column]
        above.imshow(displayable(examples.inputs[i]), cmap="gray", vmin=0, vmax=255)
        true, read = examples.words(i)
        text = f"{true}" if true == read else f"{true}, read as {read}"
        above.set_title(
            f"{text}\n{100 * float(examples.confidence[i]):.0f} %",
            fontsize=8,
            color=RIGHT if true == read else WRONG,
            parse_math=False,
        )
        for k, output in enumerate(examples.outputs[i]):
            if outlines is not None:
                _draw_region(above, outlines[i, k], size, margin, REGIONS[k % len(REGIONS)])
            below = axes[block * deep + 1 + k, column]
            below.imshow(displayable(output), cmap="gray", vmin=0, vmax=255)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_atomically(Path(path), buffer.getvalue())


def _draw_region(axis, outline: Tensor, size: Sequence[int], margin: float, color: str) -> None:
    height, width = size
    for line in polylines(outline, (height, width)):
        x, y = zip(*line, strict=True)
        axis.plot(x, y, color="black", linewidth=2.6)
        axis.plot(x, y, color=color, linewidth=1.4)
    if bool(outline[0].isfinite().all()):
        axis.plot(*outline[0].tolist(), "o", color=color, markeredgecolor="black", markersize=5)
    axis.set_xlim(-0.5 - margin, width - 0.5 + margin)
    axis.set_ylim(height - 0.5 + margin, -0.5 - margin)


def _choose(truth: Tensor, count: int) -> dict[str, list[int]]:
    """Of each of `KINDS` the indices; `truth` is the log of the true answer's probability."""
    count = min(count, len(truth))
    each = count // 3
    order = truth.nan_to_num(-math.inf).cpu().argsort(stable=True).tolist()  # NaN is the worst
    worst, best = order[:each], order[len(order) - each :][::-1]
    taken = {*worst, *best}
    drawn = torch.randperm(len(truth), generator=torch.Generator().manual_seed(0)).tolist()
    rest = (i for i in drawn if i not in taken)
    return {
        "random": list(itertools.islice(rest, count - 2 * each)),
        "worst": worst,
        "best": best,
    }


def inspect(model: nn.Module, images: Tensor) -> WarpResult | None:
    """What a model's transformer does with images, in eval mode; the model's mode is restored.

    Args:
        model: its attribute `transformer` is looked at; what is under `stem`, if it has that, comes
            before it.
        images: (N, C, *S), on the model's device.

    Returns:
        As `stn.SpatialTransformer.inspect`; None for a model without a transformer.
    """
    transformer = getattr(model, "transformer", None)
    stem = getattr(model, "stem", nn.Identity())
    if transformer is None:
        return None
    was_training = model.training
    model.eval()
    try:
        return transformer.inspect(stem(images))
    finally:
        model.train(was_training)
