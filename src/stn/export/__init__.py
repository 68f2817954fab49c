"""Shipping: models as ONNX files or torch.export programs, checked against the model."""

from .lowering import LOWERINGS
from .program import FORMATS, OPSET, TOLERANCE, Exported, export_model

__all__ = ["FORMATS", "LOWERINGS", "OPSET", "TOLERANCE", "Exported", "export_model"]
