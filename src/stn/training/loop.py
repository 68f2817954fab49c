"""The training loop: visible, resumable at every checkpoint, bit for bit on CPU."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..evaluation import error_percent
from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint, write_atomically
from .config import TrainingConfig, lr_factor, make_optimizer

Batches = Callable[[int], tuple[Tensor, Tensor]]


class Progress(Protocol):
    """Told of every step; `rich` or nothing stands behind it."""

    def __call__(self, step: int, steps: int, message: str) -> None: ...


class Trained(NamedTuple):
    """The network that was best on the held-out images, and how it came about."""

    held_out_error_percent: float
    best_step: int
    seconds: float


class Interrupted(KeyboardInterrupt):
    """Ctrl-C: the checkpoint is written, the same command goes on from there."""


def train(
    model: nn.Module,
    batches: Batches,
    held_out: tuple[Tensor, Tensor],
    config: TrainingConfig,
    folder: Path,
    *,
    cpu: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """Train `model` on `batches(step)` and leave it with its best weights on `held_out`.

    `folder` receives metrics.jsonl and checkpoint/, and a training found there is continued: as
    batches depend on the step alone, the end is the same as without the break. The learning rate
    follows `lr_factor`; the loss is cross-entropy.

    Args:
        model: logits from images.
        batches: images and labels of step 0, 1, …; the same ones whenever asked.
        held_out: images and labels by which the weights are chosen, never trained on.
        config: the choices.
        folder: of the run.
        cpu: stay on the CPU even if there is a GPU.
        progress: called after every step.

    Raises:
        CheckpointError: a checkpoint that cannot be used.
        FloatingPointError: the loss is not finite.
        Interrupted: after Ctrl-C.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=cpu)
    half = config.precision == "bfloat16"
    if half:  # the layout in which a convolution takes half the time
        for weight in model.parameters():
            if weight.dim() == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    model, optimizer = accelerator.prepare(model, make_optimizer(model, config))
    inner = accelerator.unwrap_model(model)
    images, labels = (tensor.to(accelerator.device) for tensor in held_out)

    found = load_checkpoint(folder / "checkpoint", inner, optimizer)
    start, best = (found.step, found.best) if found else (0, {})
    record = found.progress if found else {"best_error": None, "best_step": 0, "seconds": 0.0}
    metrics = _Metrics(folder / "metrics.jsonl", start)
    clock = time.monotonic() - record["seconds"]
    losses: list[Tensor] = []

    with _interrupts() as stop:
        for step in range(start, config.steps):
            model.train()
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * lr_factor(config, step)
            shard = step * accelerator.num_processes + accelerator.process_index
            x, y = (tensor.to(accelerator.device) for tensor in batches(shard))
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=half):
                logits = model(x)
            loss = F.cross_entropy(logits.float(), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            if config.clip_norm:
                accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            losses.append(loss.detach())

            done = step + 1
            if done % config.evaluate_every == 0 or done == config.steps:
                train_loss = torch.stack(losses).mean().item()
                losses.clear()
                if not train_loss < float("inf"):
                    raise FloatingPointError(
                        f"the loss is not finite before step {done}: lower lr (now {config.lr}) or "
                        f"localization_lr_factor (now {config.localization_lr_factor})"
                    )
                error = error_percent(inner, images, labels)
                if record["best_error"] is None or error <= record["best_error"]:
                    record |= {"best_error": error, "best_step": done}
                    best = {name: t.detach().clone() for name, t in inner.state_dict().items()}
                record["seconds"] = time.monotonic() - clock
                if accelerator.is_main_process:
                    metrics.add(
                        step=done,
                        samples_seen=done * config.batch_size * accelerator.num_processes,
                        train_loss=train_loss,
                        held_out_error_percent=error,
                        lr=config.lr * lr_factor(config, step),
                        seconds=record["seconds"],
                    )
                    state = Checkpoint(done, best, record)
                    save_checkpoint(folder / "checkpoint", inner, optimizer, state)
            if progress is not None:
                shown = record["best_error"]
                progress(done, config.steps, "" if shown is None else f"held-out {shown:.2f} %")
            if stop.is_set:
                raise Interrupted(f"stopped at step {done}; the same command continues {folder}")

    inner.load_state_dict(best)
    return Trained(record["best_error"], record["best_step"], record["seconds"])


class _Metrics:
    """metrics.jsonl, cut back to the step that training continues from."""

    def __init__(self, path: Path, step: int):
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        write_atomically(path, "".join(line + "\n" for line in kept).encode())

    def add(self, **values: float) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # half a line, cut off by a kill


class _Stop:
    is_set = False


@contextmanager
def _interrupts() -> Iterator[_Stop]:
    """Ctrl-C sets a flag, so that a step is never cut in two; a second one is not held back."""
    stop = _Stop()

    def handle(number, frame):
        signal.signal(signal.SIGINT, before)
        stop.is_set = True

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not in the main thread
        yield stop
        return
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
