"""Flows of continuous piecewise-affine velocity fields (Freifeld et al., PAMI 2017)."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import coords, linalg
from .flow import Flow, planes
from .velocity import check_cells


class CPAB(Flow):
    """A diffeomorphism that is the flow of a velocity field, affine on every simplex of a mesh.

    source = x(1) of dx/dt = v(x), x(0) = target. Each box of a regular tessellation of [-1, 1] is
    cut into 4 triangles that meet in its centre, in 3-D into 5 tetrahedra. On simplex c the field
    is v(x) = A_c (x, 1), and the A_c agree where simplices meet. theta holds the coefficients of
    all A_c, stacked, in an orthonormal basis of the fields that are continuous. Of all such bases
    it is the one nearest to the hat functions (Löwdin): each number of theta is, up to scale and
    some blur, one component of the velocity at one of `vertices`, row-major; components that
    `zero_boundary` fixes are left out. The inverse is the flow of -theta.

    Args:
        tessellation: boxes along (H, W) or (D, H, W).
        zero_boundary: no flow through the border of [-1, 1], along it there may be some (libcpab's
            meaning and default): the square then maps onto itself. False: no such constraint.
        steps: of the integration, as in `Velocity`. Steps end where the path meets another simplex,
            so that the error is that of smooth fields unless a step crosses three.

    Note:
        Outside [-1, 1] the velocity is that of the nearest point of the border. Derivatives of
        every order are those of the integration formula itself.
    """

    vertices: Tensor
    simplices: Tensor
    inverses: Tensor
    mixing: Tensor
    sides: Tensor

    def __init__(self, tessellation: Sequence[int], zero_boundary: bool = True, steps: int = 4):
        boxes = check_cells(tessellation, "tessellation")
        dim = len(boxes)
        vertices, simplices = _mesh(boxes)
        corners = vertices[simplices]
        # A_c (x, 1) = v at the corners: A_c is this inverse times the corners' velocities.
        inverses = torch.linalg.inv(torch.cat([corners, torch.ones_like(corners[..., :1])], -1))
        free = torch.ones_like(vertices, dtype=torch.bool)
        if zero_boundary:
            free = vertices.abs() < 1
        mixing = _orthonormal(inverses, simplices, len(vertices), free)
        if not len(mixing):
            raise ValueError(f"no flow is left in tessellation {boxes} with zero_boundary=True")
        place = planes(boxes)
        kinks = torch.cat([place, _diagonals(dim) @ place])
        super().__init__(dim, len(mixing), steps, kinks)
        self.tessellation, self.zero_boundary = boxes, zero_boundary
        for name, constant in {
            "vertices": vertices,
            "simplices": simplices,
            "inverses": inverses,
            "mixing": mixing,
            "sides": _sides(dim),
        }.items():
            self.register_buffer(name, constant, persistent=False)

    def vertex_velocities(self, theta: Tensor) -> Tensor:
        """Velocity (B, V, dim) at each of `vertices` (V, dim), float64."""
        return (theta.double() @ self.mixing).unflatten(-1, (-1, self.dim))

    def field(self, theta: Tensor) -> Callable[[Tensor], Tensor]:
        at_corners = self.vertex_velocities(theta)[:, self.simplices]  # (B, C, dim + 1, dim)
        affine = (self.inverses @ at_corners).mT.to(theta.dtype)  # A_c
        rows = affine.flatten(2).mT  # (B, dim (dim + 1), C)

        def velocity(points: Tensor) -> Tensor:
            points = points.clamp(-1, 1)
            cell = self._simplex_of(points).unsqueeze(1).expand(-1, rows.shape[1], -1)
            own = rows.gather(2, cell).unflatten(1, (self.dim, self.dim + 1))
            total = own[:, :, -1]
            for axis in range(self.dim):
                total = total + own[:, :, axis] * points[..., axis].unsqueeze(1)
            return total.mT

        return velocity

    def _simplex_of(self, points: Tensor) -> Tensor:
        """Index (B, N) of the simplex that each point of [-1, 1] lies in."""
        place = linalg.apply_affine(self.kinks[None, : self.dim].to(points), points.detach())
        last = torch.tensor(self.tessellation[::-1], device=points.device) - 1
        box = torch.minimum(place.floor().long().clamp(min=0), last)
        local = 2 * (place - box) - 1
        if self.dim == 3:
            odd = (box.sum(-1) % 2).bool()
            x = torch.where(odd, -local[..., 0], local[..., 0])
            local = torch.cat([x.unsqueeze(-1), local[..., 1:]], -1)
        side = linalg.apply_affine(self.sides.unsqueeze(0).to(points), local).argmax(-1)
        number = torch.zeros_like(side)
        for axis, n in enumerate(self.tessellation):
            number = number * n + box[..., self.dim - 1 - axis]
        return number * len(self.sides) + side

    def extra_repr(self) -> str:
        border = "" if self.zero_boundary else ", zero_boundary=False"
        return f"tessellation={self.tessellation}{border}, steps={self.steps}"


def _sides(dim: int) -> Tensor:
    """Affine functions (S, dim + 1) on a box [-1, 1]; a point is in the simplex of the largest."""
    if dim == 2:  # up, right, down, left of the centre
        return torch.tensor([[0, -1, 0], [1, 0, 0], [0, 1, 0], [-1, 0, 0]]).double()
    # The middle, and beyond it four of the corners.
    corners = [[0, 0, 0, 0], [-1, -1, 1, -1], [1, 1, 1, -1], [-1, 1, -1, -1], [1, -1, -1, -1]]
    return torch.tensor(corners).double()


def _simplices(dim: int) -> Tensor:
    """Corners (S, dim + 1, dim) of the simplices of a box [-1, 1], in the order of `_sides`."""
    out = _sides(dim)[:, :-1].long()
    if dim == 2:
        across = out.flip(-1)
        return torch.stack([torch.zeros_like(out), out - across, out + across], 1)
    flips = 1 - 2 * torch.eye(3, dtype=torch.long)
    tips = torch.cat([out[1:, None], out[1:, None] * flips], 1)
    return torch.cat([-out[None, 1:], tips])


def _diagonals(dim: int) -> Tensor:
    """The planes of a unit box's inner faces, as combinations of x, y[, z]."""
    if dim == 2:
        return torch.tensor([[1, 1], [1, -1]]).double()
    return torch.tensor([[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1]]).double()


def _mesh(boxes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Vertices (V, dim), row-major, and simplices (C, dim + 1) as their numbers; boxes first."""
    dim = len(boxes)
    box = torch.cartesian_prod(*[torch.arange(n) for n in boxes]).flip(-1)[:, None, None]
    corners = _simplices(dim).expand(math.prod(boxes), -1, -1, -1).clone()
    if dim == 3:  # every other box is mirrored, so that neighbours cut their common face alike
        corners[..., 0] *= 1 - 2 * (box.sum(-1) % 2)
    halves = [2 * n + 1 for n in boxes]  # vertices stand on a lattice of half boxes
    strides = torch.tensor([math.prod(halves[axis + 1 :]) for axis in range(dim)][::-1])
    number = ((2 * box + 1 + corners) * strides).sum(-1)
    kept, simplices = number.unique(return_inverse=True)
    return coords.lattice_points(halves)[kept], simplices.flatten(0, 1)


def _orthonormal(inverses: Tensor, simplices: Tensor, count: int, free: Tensor) -> Tensor:
    """(P, V dim): vertex velocities of the basis fields, whose stacked A_c are orthonormal.

    With E from the free components to the stacked A_c, the basis is E (E^T E)^(-1/2).
    """
    dim = simplices.shape[-1] - 1
    stacked = inverses.new_zeros(len(simplices) * (dim + 1), count)
    rows = torch.arange(len(stacked)).view(len(simplices), dim + 1, 1).expand_as(inverses)
    stacked[rows, simplices.unsqueeze(1).expand_as(inverses)] = inverses
    gram = stacked.mT @ stacked  # of one component; components do not mix
    mixing = inverses.new_zeros(count, dim, count, dim)
    for axis in range(dim):
        own = free[:, axis].nonzero().squeeze(-1)
        if len(own):
            values, vectors = torch.linalg.eigh(gram[own][:, own])
            root = (vectors / values.sqrt()) @ vectors.mT
            mixing[own.unsqueeze(-1), axis, own, axis] = root
    return mixing.flatten(0, 1).flatten(1)[free.flatten()]
