"""The paper's networks, and loading of trained ones."""

from .classifiers import count_parameters
from .folder import load_model, read_config, read_tensors
from .stn2015 import FAMILIES, MODELS, NetSpec, Network, build_model

__all__ = [
    "FAMILIES",
    "MODELS",
    "NetSpec",
    "Network",
    "build_model",
    "count_parameters",
    "load_model",
    "read_config",
    "read_tensors",
]
