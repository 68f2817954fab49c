"""Training on Accelerate: configuration, loop, checkpoints."""

from .checkpoint import CheckpointError, write_atomically, write_json, write_tensors
from .config import TrainingConfig
from .frames import Frames, read_frames, theta_recorder
from .loop import Interrupted, Trained, read_metrics, train
from .processes import Processes, ProcessLost

__all__ = [
    "CheckpointError",
    "Frames",
    "Interrupted",
    "ProcessLost",
    "Processes",
    "Trained",
    "TrainingConfig",
    "read_frames",
    "read_metrics",
    "theta_recorder",
    "train",
    "write_atomically",
    "write_json",
    "write_tensors",
]
