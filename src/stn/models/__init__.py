"""The paper's networks, networks for pictures, and loading of trained ones."""

from .backbones import BACKBONES, backbone_named
from .classifiers import count_parameters
from .colocalizer import Colocalizer, ColocalizerSpec
from .ensemble import Ensemble
from .folder import TENSORS, Spec, load_model, read_config, read_spec, read_tensors, spec_of
from .parts import PartsNetwork, PartsSpec
from .pretrained import Pretrained, usage
from .stn2015 import BASES, FAMILIES, MODELS, NetSpec, Network
from .svhn import SvhnNet, SvhnSpec

__all__ = [
    "BACKBONES",
    "BASES",
    "FAMILIES",
    "MODELS",
    "TENSORS",
    "Colocalizer",
    "ColocalizerSpec",
    "Ensemble",
    "NetSpec",
    "Network",
    "PartsNetwork",
    "PartsSpec",
    "Pretrained",
    "Spec",
    "SvhnNet",
    "SvhnSpec",
    "backbone_named",
    "count_parameters",
    "load_model",
    "read_config",
    "read_spec",
    "read_tensors",
    "spec_of",
    "usage",
]
