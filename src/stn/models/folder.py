"""A run and a published model are the same kind of folder: config.json + model.safetensors."""

import json
from dataclasses import fields, replace
from pathlib import Path

from torch import Tensor

from .colocalizer import Colocalizer, ColocalizerSpec
from .ensemble import Ensemble
from .parts import PartsNetwork, PartsSpec
from .pretrained import TENSORS
from .stn2015 import NetSpec, Network
from .svhn import SvhnNet, SvhnSpec

ABOUT = ("names", "fit")  # of a config.json, for those who use a network
PLACE_NAMES = (*"0123456789", "")  # of a house number: its digits, or that it has ended
Spec = NetSpec | PartsSpec | SvhnSpec | ColocalizerSpec
# By the field "kind" of a specification.
SPECS: dict[str, type[Spec]] = {
    "stn2015": NetSpec,
    "parts": PartsSpec,
    "svhn": SvhnSpec,
    "colocalizer": ColocalizerSpec,
}


def load_model(
    folder: str | Path, *, trust_code: bool = False
) -> Network | Ensemble | PartsNetwork | SvhnNet | Colocalizer:
    """The network of a run or of a published model, in eval mode.

    It takes float images in [0, 1] on the canvas of its training and returns logits. Nothing is
    unpickled.

    Args:
        folder: holds config.json (with the network's specification under "net") and
            model.safetensors.
        trust_code: call the function that the network's backbone may be, "module:function".

    Raises:
        ValueError: such a backbone without trust_code, a file that is missing or damaged, or files
            that do not belong together.
    """
    folder = Path(folder)
    spec = read_spec(folder)
    if isinstance(spec, PartsSpec):
        if ":" in spec.backbone and not trust_code:
            raise ValueError(
                f"{folder} would call {spec.backbone} to build its network: if you trust who wrote "
                "it, pass trust_code=True (--trust-code)"
            )
        spec = replace(spec, pretrained=False)  # the weights are here
    model = spec.build()
    state = read_tensors(folder / TENSORS)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{folder}: model.safetensors does not fit config.json ({reason})"
        ) from None
    config = read_config(folder)
    model.about = {name: config[name] for name in ABOUT if name in config}
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


def read_spec(folder: Path) -> Spec:
    """The network's specification, under "net" in config.json."""
    try:
        return spec_of(read_config(folder)["net"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{folder / "config.json"} has no network under "net": {type(error).__name__} {error}'
        ) from None


def class_names(config: dict, spec: Spec) -> tuple[str, ...]:
    """What a network's classes are called: as its config.json says, else by their numbers."""
    if names := config.get("names"):
        return tuple(names)
    if isinstance(spec, SvhnSpec):
        return PLACE_NAMES
    return tuple(str(number) for number in range(spec.classes))


def spec_of(net: dict) -> Spec:
    """The specification that a config.json holds; what this version does not know is left out."""
    kind = SPECS[net.get("kind", "stn2015")]
    known = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in net.items() if name in known})


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
