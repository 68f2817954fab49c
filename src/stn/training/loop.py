"""The training loop: visible, resumable at every checkpoint, bit for bit on CPU."""

import json
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..evaluation import answer_loss, error_percent
from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint, write_atomically
from .config import TrainingConfig, lr_factor, make_optimizer
from .processes import Processes

Batch = tuple[Tensor, Tensor]
METRICS = "metrics.jsonl"


# Training images and labels without end: (start, part, parts) -> from step `start` on, of every
# batch the rows that are part number `part` of `parts` equal ones, as each process takes its own.
# What step k holds depends on k alone.
Batches = Callable[[int, int, int], Iterable[Batch]]
# Chunks of the images by which weights are chosen: (part, parts) -> all parts hold each image once.
HeldOut = Callable[[int, int], Iterable[Batch]]


# Told of every step: (step, steps, message). `rich` or nothing stands behind it.
Progress = Callable[[int, int, str], object]
# Looks on at the start and after every checkpoint, in the main process: (step, network).
Watch = Callable[[int, nn.Module], object]


class Trained(NamedTuple):
    """The network that was best on the held-out images, and how it came about."""

    held_out_error_percent: float
    best_step: int
    seconds: float
    precision: str


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: the same command goes on from the last checkpoint."""


def train(
    model: nn.Module,
    batches: Batches,
    held_out: HeldOut,
    config: TrainingConfig,
    folder: Path,
    processes: Processes,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Trained:
    """Train `model` and leave it with the weights that were best on the held-out images.

    `folder` receives metrics.jsonl and checkpoint/, and a training found there is continued: as
    batches depend on the step alone, the end is the same as without the break. The learning rate
    follows `lr_factor`; the loss is `answer_loss`.

    Args:
        model: logits from images, as `answer_loss` takes them.
        batches: to train on; images may be on any device.
        held_out: never trained on.
        config: the choices.
        folder: of the run.
        processes: that train together; every one calls this.
        progress: called after every step.
        watch: may look at the network, in any mode, and change nothing in it.

    Raises:
        CheckpointError: a checkpoint that cannot be used.
        FloatingPointError: the loss is not finite.
        Interrupted: after Ctrl-C or SIGTERM.
        ProcessLost: another process has died.
        ValueError: a batch size that cannot be cut into equal parts.
    """
    accelerator, device = processes.accelerator, processes.device
    if config.batch_size % (processes.count * config.accumulate):
        raise ValueError(
            f"batch_size {config.batch_size} cannot be cut into {processes.count} processes x "
            f"{config.accumulate} equal parts"
        )
    half = config.precision == "bfloat16"
    if half:  # the layout in which a convolution takes less time, in float32 too
        for weight in model.parameters():
            if weight.dim() == 4:
                weight.data = _channels_last(weight.data)
        half = computes_bfloat16(device)
        if not half:
            warnings.warn(
                "this processor does not compute in bfloat16: training in float32, which is many "
                "times faster than to emulate it",
                stacklevel=2,
            )
    if config.compile:
        model.compile()
    model, optimizer = accelerator.prepare(model, make_optimizer(model, config))
    inner = accelerator.unwrap_model(model)

    found = load_checkpoint(folder / "checkpoint", inner, optimizer)
    start, best = (found.step, found.best) if found else (0, {})
    record = found.progress if found else {"best_error": None, "best_step": 0, "seconds": 0.0}
    saved = start
    metrics = _Metrics(folder, start) if processes.is_main else None
    clock = time.monotonic() - record["seconds"]
    losses: list[Tensor] = []
    shares = iter(batches(start, processes.rank, processes.count))
    watch = watch if processes.is_main else None
    if watch is not None:
        watch(start, inner)  # again, if a kill came between a checkpoint and its look

    with _interrupts() as stop:
        for step in range(start, config.steps):
            model.train()
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * lr_factor(config, step)
            x, y = (tensor.to(device, non_blocking=True) for tensor in next(shares))
            optimizer.zero_grad()
            with processes.together(saved):
                for part, (images, labels) in enumerate(_cut(x, y, config.accumulate), start=1):
                    last = part == config.accumulate
                    with nullcontext() if last else accelerator.no_sync(model):
                        with torch.autocast(device.type, torch.bfloat16, enabled=half):
                            logits = model(images)
                        loss = answer_loss(logits.float(), labels) / config.accumulate
                        accelerator.backward(loss)
                        losses.append(loss.detach())
                if config.clip_norm:
                    accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()

            done = step + 1
            if done % config.evaluate_every == 0 or done == config.steps:
                with processes.together(saved):
                    mean = torch.stack(losses).sum() * config.accumulate / len(losses)
                    train_loss = processes.total(mean).item() / processes.count
                    losses.clear()
                    if not train_loss < float("inf"):
                        raise FloatingPointError(
                            f"the loss is not finite before step {done}: lower lr (now "
                            f"{config.lr}) or localization_lr_factor (now "
                            f"{config.localization_lr_factor})"
                        )
                    processes.share_buffers(inner)
                    chunks = held_out(processes.rank, processes.count)
                    error = error_percent(inner, chunks, processes.total)
                if record["best_error"] is None or error <= record["best_error"]:
                    record |= {"best_error": error, "best_step": done}
                    best = {name: t.detach().clone() for name, t in inner.state_dict().items()}
                record["seconds"] = time.monotonic() - clock
                if metrics is not None:
                    metrics.add(
                        step=done,
                        samples_seen=done * config.batch_size,
                        train_loss=train_loss,
                        held_out_error_percent=error,
                        lr=config.lr * lr_factor(config, step),
                        seconds=record["seconds"],
                    )
                    state = Checkpoint(done, best, record)
                    save_checkpoint(folder / "checkpoint", inner, optimizer, state)
                if watch is not None:
                    watch(done, inner)
                saved = done
            if progress is not None:
                shown = record["best_error"]
                progress(done, config.steps, "" if shown is None else f"held-out {shown:.2f} %")
            if stop.is_set:
                if stop.signal == signal.SIGTERM and processes.count > 1:
                    raise processes.lost(saved)
                raise Interrupted(f"stopped at step {done}; the same command continues {folder}")

    inner.load_state_dict(best)
    precision = "bfloat16" if half else "float32"
    return Trained(record["best_error"], record["best_step"], record["seconds"], precision)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether convolutions in bfloat16 are the device's own, not emulated, many times slower."""
    if device.type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _channels_last(weight: Tensor) -> Tensor:
    """With these strides for one channel, too: `contiguous` leaves any, and they decide of the
    convolution's output."""
    out, channels, height, width = weight.shape
    last = weight.new_empty(out, height, width, channels).permute(0, 3, 1, 2)
    return last.copy_(weight)


def _cut(images: Tensor, labels: Tensor, parts: int) -> Iterator[Batch]:
    return zip(images.chunk(parts), labels.chunk(parts), strict=True)


class _Metrics:
    """metrics.jsonl, cut back to the step that training continues from."""

    def __init__(self, folder: Path, step: int):
        self.path = folder / METRICS
        kept = [values for values in read_metrics(folder) if values["step"] <= step]
        write_atomically(self.path, "".join(map(_line, kept)).encode())

    def add(self, **values: float) -> None:
        with self.path.open("a") as file:
            file.write(_line(values))


def _line(values: dict) -> str:
    return json.dumps(values) + "\n"


def read_metrics(folder: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl, but for half a last one, cut off by a kill.

    Raises:
        ValueError: another line is damaged.
    """
    path, found = folder / METRICS, []
    lines = path.read_text().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise ValueError(
                    f"{path} is damaged in line {number} ({error}); delete that line"
                ) from None
    return found


class _Stop:
    signal = 0

    @property
    def is_set(self) -> bool:
        return self.signal != 0


@contextmanager
def _interrupts() -> Iterator[_Stop]:
    """Ctrl-C and SIGTERM are noted, so that a step is never cut in two; a second is not held back.

    `torchrun` sends SIGTERM where another process was lost: the next message to it will say so.
    """
    stop = _Stop()
    before = {}

    def handle(number, frame):
        signal.signal(number, before[number])
        stop.signal = number

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, handle)
    except ValueError:  # not in the main thread
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
