"""Checkpoints without pickle: tensors in safetensors, the rest in JSON, replaced as one."""

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn, optim


class CheckpointError(ValueError):
    """A checkpoint that cannot be used."""


class Checkpoint(NamedTuple):
    """Where a training stands. `progress` is the loop's own small JSON."""

    step: int
    best: dict[str, Tensor]
    progress: dict


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename it: never half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """`write_atomically` for JSON."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """`write_atomically` for tensors, in the safetensors format."""
    from safetensors.torch import save

    write_atomically(path, save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: optim.Optimizer, checkpoint: Checkpoint
) -> None:
    """Write `folder`/step-N and remove older ones; at any moment one whole checkpoint is there."""
    state = optimizer.state_dict()
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in checkpoint.best.items()}
    tensors |= {
        f"optimizer/{index}/{name}": value
        for index, values in state["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }
    tensors["random"] = torch.get_rng_state()
    record = {
        "step": checkpoint.step,
        "progress": checkpoint.progress,
        "param_groups": state["param_groups"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".step-{checkpoint.step}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    write_tensors(temporary / "state.safetensors", tensors)
    write_json(temporary / "state.json", record)
    final = folder / f"step-{checkpoint.step}"
    if final.exists():
        shutil.rmtree(final)
    temporary.replace(final)
    for old in folder.iterdir():
        if old != final:
            shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: optim.Optimizer
) -> Checkpoint | None:
    """Bring model, optimiser and torch's random state to the newest checkpoint; None if none.

    Raises:
        CheckpointError: it is damaged or belongs to another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found = sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    if not found:
        return None
    newest = found[-1]
    try:
        record = json.loads((newest / "state.json").read_text())
        tensors = load_file(newest / "state.safetensors")
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
        for name, value in tensors.items():
            kind, _, rest = name.partition("/")
            if kind in parts:
                parts[kind][rest] = value
        model.load_state_dict(parts["model"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            index, _, entry = name.partition("/")
            state.setdefault(int(index), {})[entry] = value
        optimizer.load_state_dict({"state": state, "param_groups": record["param_groups"]})
        # A fused optimiser reads them in the order of its parameter's memory, channels_last or not.
        for parameter, entries in optimizer.state.items():
            for name, value in entries.items():
                if value.shape == parameter.shape:
                    entries[name] = torch.empty_like(parameter).copy_(value)
        torch.set_rng_state(tensors["random"])
        return Checkpoint(record["step"], parts["best"], record["progress"])
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"the checkpoint {newest} is damaged or belongs to another network ({reason}); "
            "delete it to start again from the beginning"
        ) from None
