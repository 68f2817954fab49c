"""What a transformer picks for the same few images all along a training, to be looked at later."""

import warnings
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..nn.transformer import Transformer
from .checkpoint import write_tensors

FRAMES = "frames.safetensors"
WATCHED, KEPT = 32, 8  # images whose theta is written, and those that are written themselves
HeldOut = Callable[[int, int], Iterable[tuple[Tensor, Tensor]]]  # as in the loop


class Frames(NamedTuple):
    """A training, moment by moment.

    steps: (T,), ascending, from 0 before the first, unless the file was damaged on the way.
    theta: (T, N, P), or (T, N, K, P) of transformers in parallel, for the same N held-out images.
    images: the first few of those, (n, C, *S) in [0, 1].
    """

    steps: Tensor
    theta: Tensor
    images: Tensor


def read_frames(folder: Path) -> Frames | None:
    """What was recorded in a run's folder; None if nothing was.

    Raises:
        ValueError: the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / FRAMES
    if not path.exists():
        return None
    try:
        found = load_file(path)
        return Frames(found["steps"], found["theta"], found["images"].float() / 255)
    except (SafetensorError, OSError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, the rest does without") from None


def theta_recorder(model: nn.Module, held_out: HeldOut, folder: Path) -> "ThetaRecorder | None":
    """What `train` takes as `watch`; None for a model whose theta alone does not tell its warps.

    These are models without a `transformer`, with layers before it (`stem`), or with a transform
    that itself learns.
    """
    layer = getattr(model, "transformer", None)
    if not isinstance(layer, Transformer):
        return None
    before = getattr(model, "stem", nn.Identity())
    if [*before.parameters(), *layer.transform.parameters()]:
        return None
    return ThetaRecorder(held_out, folder)


class ThetaRecorder:
    """Adds a frame to `folder`/frames.safetensors at each call.

    Frames of this step and later ones, of a training that was cut off behind its last checkpoint,
    are replaced. A damaged file begins anew, with a warning. No random number is drawn.
    """

    def __init__(self, held_out: HeldOut, folder: Path):
        self.held_out, self.folder = held_out, folder

    @cached_property
    def images(self) -> Tensor:
        return next(iter(self.held_out(0, 1)))[0][:WATCHED].clone()

    @torch.no_grad()
    def __call__(self, step: int, model: nn.Module) -> None:
        layer, was_training = model.transformer, model.training
        before = getattr(model, "stem", nn.Identity())
        assert isinstance(layer, Transformer)
        model.eval()
        try:
            images = self.images.to(next(model.parameters()).device)
            theta = layer.theta(before(images)).float().cpu()
        finally:
            model.train(was_training)
        steps, thetas = torch.tensor([step]), theta.unsqueeze(0)
        earlier = self._earlier() if step else None
        if earlier is not None:
            kept = earlier.steps < step
            steps = torch.cat([earlier.steps[kept], steps])
            thetas = torch.cat([earlier.theta[kept], thetas])
        shown = (self.images[:KEPT].clamp(0, 1) * 255).round().byte()
        found = {"steps": steps, "theta": thetas, "images": shown}
        write_tensors(self.folder / FRAMES, found)

    def _earlier(self) -> Frames | None:
        try:
            return read_frames(self.folder)
        except ValueError:
            path = self.folder / FRAMES
            warnings.warn(f"{path} is damaged; it begins anew, the training goes on", stacklevel=3)
            return None
