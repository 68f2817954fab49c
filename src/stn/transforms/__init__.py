"""Transform families: maps from target to source points, parametrised by theta."""

from .base import MatrixTransform, Transform
from .compose import Compose
from .cpab import CPAB
from .displacement import Displacement
from .free_form import FreeForm
from .learned_basis import LearnedBasis
from .linear import Affine, Attention, Rigid, Similarity, Translation
from .piecewise_affine import PiecewiseAffine
from .polar import LogPolar, Polar
from .projective import Projective
from .thin_plate_spline import ThinPlateSpline
from .velocity import Velocity

__all__ = [
    "CPAB",
    "Affine",
    "Attention",
    "Compose",
    "Displacement",
    "FreeForm",
    "LearnedBasis",
    "LogPolar",
    "MatrixTransform",
    "PiecewiseAffine",
    "Polar",
    "Projective",
    "Rigid",
    "Similarity",
    "ThinPlateSpline",
    "Transform",
    "Translation",
    "Velocity",
]
