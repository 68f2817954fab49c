"""The transform families that the explorer plays with: a table, and how handles become theta."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import coords, transforms
from ..transforms import Transform

Size = tuple[int, int]
LATTICE = (3, 3)
CORNERS = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
CORNER_NAMES = ("top left", "top right", "bottom right", "bottom left")


class Number(NamedTuple):
    """One number of theta: what it is called and the range of its slider."""

    name: str
    limit: float = 1.5


class Family(NamedTuple):
    """One row of the table.

    make: the family for images of a size (H, W).
    numbers: of theta, a slider each; none where handles say all.
    handles: "nodes", a control point each, whose displacement is theta; "corners" of the region
        that is read, to which theta is fitted; "centre", whose place is theta; "" for none.
    says: in one sentence.
    """

    make: Callable[[Size], Transform]
    numbers: tuple[Number, ...]
    handles: str
    says: str


def _bends(size: Size) -> transforms.LearnedBasis:
    """A basis of two fields in place of a learned one: theta bends upright and level lines."""
    transform = transforms.LearnedBasis(rank=2, lattice=(24, 24))
    nodes = coords.target_points((24, 24)).reshape(24, 24, 2)
    fields = torch.stack([(math.pi * nodes[..., 1]).sin(), (math.pi * nodes[..., 0]).sin()])
    with torch.no_grad():
        transform.basis.copy_(fields)
    return transform.requires_grad_(False)


SHIFT = Number("t x"), Number("t y")
ANGLE = Number("angle, rad", 3.14)
LOG_SCALE = Number("log scale")
SIMILARITY = LOG_SCALE, ANGLE, *SHIFT
BENDS = tuple(Number(name, 0.8) for name in ("x by y", "x by x", "y by y", "y by x"))
AFFINE = tuple(Number(f"{name} - identity") for name in ("a11", "a12", "t x", "a21", "a22", "t y"))
PROJECTIVE = (*AFFINE, Number("h31", 0.6), Number("h32", 0.6))
MOVED = "Drag the points: each says where one point of the output reads."

FAMILIES = {
    "Translation": Family(lambda s: transforms.Translation(), SHIFT, "centre", "Moves."),
    "Attention": Family(
        lambda s: transforms.Attention(), (LOG_SCALE, *SHIFT), "corners", "Moves and zooms."
    ),
    "Rigid": Family(
        lambda s: transforms.Rigid(aspect=s[::-1]), (ANGLE, *SHIFT), "corners", "Turns and moves."
    ),
    "Similarity": Family(
        lambda s: transforms.Similarity(aspect=s[::-1]),
        SIMILARITY,
        "corners",
        "Turns, zooms and moves.",
    ),
    "Affine": Family(
        lambda s: transforms.Affine(), AFFINE, "corners", "Every map that keeps lines parallel."
    ),
    "Projective": Family(
        lambda s: transforms.Projective(),
        PROJECTIVE,
        "corners",
        "What a camera sees of a plane: lines stay straight.",
    ),
    "ThinPlateSpline": Family(
        lambda s: transforms.ThinPlateSpline(LATTICE),
        (),
        "nodes",
        f"Bends as little as it can. {MOVED}",
    ),
    "PiecewiseAffine": Family(
        lambda s: transforms.PiecewiseAffine(LATTICE), (), "nodes", f"Affine on triangles. {MOVED}"
    ),
    "FreeForm": Family(
        lambda s: transforms.FreeForm(LATTICE),
        (),
        "nodes",
        "Cubic B-splines: smooth, and pulled by the points rather than passing through them.",
    ),
    "Displacement": Family(
        lambda s: transforms.Displacement(LATTICE),
        (),
        "nodes",
        f"A vector at each cell's centre, linear between. {MOVED}",
    ),
    "Velocity": Family(
        lambda s: transforms.Velocity(LATTICE),
        (),
        "nodes",
        "The flow of a velocity field, which never folds: a point dragged away is its velocity.",
    ),
    "CPAB": Family(
        lambda s: transforms.CPAB((2, 1)),
        tuple(Number(f"theta {k + 1}", 2.0) for k in range(6)),
        "",
        "The flow of a velocity field that is affine on triangles; the border stays the border.",
    ),
    "LearnedBasis": Family(
        _bends, BENDS, "", "Multiples of fields that are learned; here two sines, set by hand."
    ),
    "Polar": Family(
        lambda s: transforms.Polar(), SHIFT, "centre", "Unwraps a disc: turns become shifts."
    ),
    "LogPolar": Family(
        lambda s: transforms.LogPolar(),
        SHIFT,
        "centre",
        "Unwraps a disc: turns and zooms become shifts.",
    ),
    "Compose": Family(
        lambda s: transforms.Compose(transforms.Similarity(aspect=s[::-1]), _bends(s)),
        (*SIMILARITY, *BENDS),
        "",
        "One after the other, read once: here a Similarity, then a LearnedBasis.",
    ),
}
MOST_NUMBERS = max(len(family.numbers) for family in FAMILIES.values())


def named_points(family: Family, transform: Transform, theta: Tensor) -> tuple[Tensor, list[str]]:
    """Where the handles for theta (P,) lie on the image, (K, 2) normalised, and their names."""
    if family.handles == "nodes":
        nodes = _nodes(transform)
        rows, columns = LATTICE
        names = [f"row {k // columns + 1}, column {k % columns + 1}" for k in range(rows * columns)]
        return nodes + theta.view_as(nodes), names
    if family.handles == "corners":
        return transform.map_points(theta.unsqueeze(0), CORNERS)[0], list(CORNER_NAMES)
    if family.handles == "centre":
        return theta.unsqueeze(0), ["centre"]
    return torch.zeros(0, 2), []


def theta_of_points(family: Family, transform: Transform, points: Tensor) -> Tensor:
    """theta (P,) of handles (K, 2), within the sliders' ranges; of corners, the nearest there is.

    Raises:
        ValueError: another number of points than the family has, or corners that fit nothing.
    """
    expected = {"nodes": LATTICE[0] * LATTICE[1], "corners": 4, "centre": 1, "": 0}[family.handles]
    if points.shape != (expected, 2):
        raise ValueError(f"this family has {expected} points, got {len(points)}; choose it again")
    if family.handles == "nodes":
        return (points - _nodes(transform)).flatten()
    fitted = family.handles == "corners"
    theta = transform.fit(CORNERS, points)[0] if fitted else points.flatten()
    limits = torch.tensor([number.limit for number in family.numbers])
    return theta.clamp(-limits, limits)


def _nodes(transform: Transform) -> Tensor:
    nodes = transform.control_points
    assert isinstance(nodes, Tensor)
    return nodes.float()
