"""Transform families: maps from target to source points, parametrised by theta."""

from .base import MatrixTransform, Transform
from .compose import Compose
from .linear import Affine, Attention, Rigid, Similarity, Translation
from .projective import Projective
from .thin_plate_spline import ThinPlateSpline

__all__ = [
    "Affine",
    "Attention",
    "Compose",
    "MatrixTransform",
    "Projective",
    "Rigid",
    "Similarity",
    "ThinPlateSpline",
    "Transform",
    "Translation",
]
