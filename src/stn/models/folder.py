"""A run and a published model are the same kind of folder: config.json + model.safetensors."""

import json
from dataclasses import fields
from pathlib import Path

from torch import Tensor

from .stn2015 import NetSpec, Network, build_model

TENSORS = "model.safetensors"


def load_model(folder: str | Path) -> Network:
    """The network of a run or of a published model, in eval mode.

    It takes float images in [0, 1] on the canvas of its training and returns logits. Nothing is
    unpickled.

    Args:
        folder: holds config.json (with the network's specification under "net") and
            model.safetensors.

    Raises:
        ValueError: a file is missing or damaged, or they do not belong together.
    """
    folder = Path(folder)
    model = build_model(read_spec(folder))
    state = read_tensors(folder / TENSORS)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{folder}: model.safetensors does not fit config.json ({reason})"
        ) from None
    return model.eval()


def read_config(folder: Path) -> dict:
    """The contents of config.json, or a ValueError that says what is wrong with it."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
        if not isinstance(config, dict):
            raise ValueError("it is not an object")
        return config
    except FileNotFoundError:
        raise ValueError(
            f"{folder} is not a run or a model: it holds no config.json; see `stn list`"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def read_spec(folder: Path) -> NetSpec:
    """The network's specification, under "net" in config.json."""
    try:
        net = read_config(folder)["net"]
        known = {field.name for field in fields(NetSpec)}
        values = {name: value for name, value in net.items() if name in known}
        return NetSpec(**values)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{folder / "config.json"} has no network under "net": {type(error).__name__} {error}'
        ) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or a ValueError that says what is wrong with it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.exists():
        raise ValueError(f"{path} is missing: the run has not finished; `stn train` resumes it")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it and train again, or fetch it again"
        ) from None
