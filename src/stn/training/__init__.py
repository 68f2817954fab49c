"""Training on Accelerate: configuration, loop, checkpoints."""

from .checkpoint import CheckpointError, write_atomically, write_json, write_tensors
from .config import TrainingConfig
from .loop import Interrupted, Trained, train
from .processes import Processes, ProcessLost

__all__ = [
    "CheckpointError",
    "Interrupted",
    "ProcessLost",
    "Processes",
    "Trained",
    "TrainingConfig",
    "train",
    "write_atomically",
    "write_json",
    "write_tensors",
]
