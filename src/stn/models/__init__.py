"""The paper's networks, and loading of trained ones."""

from .classifiers import count_parameters
from .folder import TENSORS, load_model, read_config, read_spec, read_tensors
from .stn2015 import BASES, FAMILIES, MODELS, NetSpec, Network, build_model

__all__ = [
    "BASES",
    "FAMILIES",
    "MODELS",
    "TENSORS",
    "NetSpec",
    "Network",
    "build_model",
    "count_parameters",
    "load_model",
    "read_config",
    "read_spec",
    "read_tensors",
]
