"""What every transform family can do; a family is one file that fills in the hooks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .. import coords
from .._checks import (
    check_floating,
    check_points,
    check_size,
    check_theta,
    full_precision,
    shape_of,
    widen,
)
from ..places import Places
from .inversion import newton_inverse


class Transform(nn.Module):
    """A family of maps from target points to source points, ``source = T_theta(target)``.

    Points are normalised, (x, y) or (x, y, z) in the last axis. ``theta`` is (B, num_params), one
    row per image; zero is the identity unless a family says otherwise. Constants of a family are
    float64 buffers that follow the module's device, never its dtype, and are not in the state dict.

    A family implements ``displacement_at``; the other hooks (``valid_at``, ``jacobian_at``,
    ``inverse_at``, ``fit_to``) have general answers that it may replace by closed forms. Hooks take
    checked input: theta (B, P) and points (1 or B, N, dim) in float32 or wider.
    """

    linear_in_theta = False  # whether displacements are, or a matrix's entries

    def __init__(self, dim: int, num_params: int):
        super().__init__()
        if dim not in (2, 3):
            raise ValueError(f"dim must be 2 or 3, got {dim!r}")
        self.dim = dim
        self.num_params = num_params

    # Hooks ---------------------------------------------------------------------------------

    def displacement_at(self, theta: Tensor, points: Tensor) -> Tensor:
        """Source minus target (B, N, dim); exactly zero for the identity."""
        raise NotImplementedError

    def valid_at(self, theta: Tensor, points: Tensor) -> Tensor | None:
        """Mask (B, N) of the points that have a source, None where all have."""
        return None

    def grid_displacement(self, theta: Tensor, size: tuple[int, ...], align: bool) -> Tensor:
        """Displacement (B, N, dim) at all pixel centres of `size`, where it can be had faster."""
        points = coords.target_points(size, align, theta.dtype, theta.device)
        return self.displacement_at(theta, points.unsqueeze(0))

    def jacobian_at(self, theta: Tensor, points: Tensor) -> Tensor:
        points = points.expand(theta.shape[0], -1, -1).contiguous()
        columns = []
        for axis in range(self.dim):
            step = torch.zeros_like(points)
            step[..., axis] = 1
            columns.append(step + torch.func.jvp(self._moved(theta), (points,), (step,))[1])
        return torch.stack(columns, dim=-1)

    def _moved(self, theta: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda points: self.displacement_at(theta, points)

    def inverse_at(self, theta: Tensor, points: Tensor) -> Tensor:
        return newton_inverse(
            lambda p: p + self.displacement_at(theta, p),
            lambda p: self.jacobian_at(theta, p),
            points.expand(theta.shape[0], -1, -1),
        )

    def fit_to(self, target: Tensor, source: Tensor, weights: Tensor) -> Tensor:
        raise TypeError(f"{self!r} has no least-squares fit")

    # Public --------------------------------------------------------------------------------

    @full_precision
    def map_points(self, theta: Tensor, points: Tensor) -> Tensor:
        """Source points of target points.

        Args:
            theta: (B, num_params).
            points: (N, dim), shared by the batch, or (B, N, dim); normalised.

        Returns:
            (B, N, dim), normalised. Differentiable in both arguments.

        Raises:
            ValueError: wrong shape of theta or points.
        """
        theta, points = self._checked(theta, points)
        return points + self.displacement_at(theta, points)

    @full_precision
    def jacobian(self, theta: Tensor, points: Tensor) -> Tensor:
        """Derivative (B, N, dim, dim) of the source at target points: d source_i / d target_j."""
        theta, points = self._checked(theta, points)
        return self.jacobian_at(theta, points)

    @full_precision
    def inverse_points(self, theta: Tensor, points: Tensor) -> Tensor:
        """Target points (B, N, dim) whose source is `points`; NaN where there is none.

        Differentiable in both arguments, by the implicit function theorem where there is no
        closed form.
        """
        theta, points = self._checked(theta, points)
        return self.inverse_at(theta, points)

    @full_precision
    def grid(self, theta: Tensor, size: Sequence[int] | int, align_corners: bool = False) -> Tensor:
        """Source points of all pixels of an output of `size`: (B, *size, dim), normalised.

        Equal to affine_grid for Affine, and fit for any grid_sample with the same
        `align_corners`. Pixels without a source (behind a projective horizon) are NaN.
        """
        theta, _ = self._checked(theta, None)
        size = check_size(size, self.dim)
        points = coords.target_points(size, align_corners, theta.dtype, theta.device)
        source = points + self.grid_displacement(theta, size, align_corners).to(theta.dtype)
        return self._hide_invalid(theta, size, align_corners, source).unflatten(1, size)

    @full_precision
    def places(
        self, theta: Tensor, size: Sequence[int] | int, align_corners: bool = False
    ) -> Places:
        """What decides where every pixel of outputs of `size` reads, for theta (B, P) or (B, K, P).

        `places(…).pixels(input_size)` are the places themselves, (B, [K,] *size, dim) in px.
        """
        many = theta.dim() == 3 and theta.shape[-1] == self.num_params
        rows, _ = self._checked(theta.flatten(0, 1) if many else theta, None)
        places = self._places(rows, check_size(size, self.dim), align_corners)
        return places._replace(lead=tuple(theta.shape[:2])) if many else places

    def _places(self, theta: Tensor, size: tuple[int, ...], align: bool) -> Places:
        # A row that is not finite is lost whole.
        lost = ~theta.isfinite().all(-1, keepdim=True)
        if self.linear_in_theta:
            shift = self.grid_displacement(theta.masked_fill(lost, torch.nan), size, align)
        else:  # kept out of the formulas: they would turn its zero gradient into NaN
            theta = theta.masked_fill(lost, 0)
            shift = self.grid_displacement(theta, size, align)
            shift = shift.masked_fill(lost.unsqueeze(-1), torch.nan)
            shift = self._hide_invalid(theta, size, align, shift)
        return Places("flow", shift, size, (theta.shape[0],), align)

    @full_precision
    def fit(
        self, target_points: Tensor, source_points: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Least-squares theta (B, num_params) that takes target points to source points.

        Args:
            target_points, source_points: (N, dim) or (B, N, dim), normalised.
            weights: (N,) or (B, N), not negative; each squared residual counts this much.

        Raises:
            ValueError: shapes disagree, bad weights, or points that determine no answer.
            TypeError: the family has no fit.
        """
        target = widen(check_points(target_points, self.dim, "target_points"))
        source = widen(check_points(source_points, self.dim, "source_points"))
        if target.shape[1] != source.shape[1]:
            raise ValueError(
                f"target_points and source_points must pair up, got {target.shape[1]} "
                f"and {source.shape[1]} points"
            )
        target, source = torch.broadcast_tensors(target, source)
        if weights is None:
            weights = torch.ones_like(target[..., 0])
        check_floating(weights, "weights")
        try:
            weights = weights.to(target).expand(target.shape[:-1])
        except RuntimeError:
            raise ValueError(
                f"weights must have shape (N,) or (B, N) with N = {target.shape[1]}, "
                f"got {shape_of(weights)}"
            ) from None
        if bool((weights < 0).any()) or not bool((weights > 0).any(-1).all()):
            raise ValueError("weights must not be negative, nor all zero")
        try:
            theta = self.fit_to(target, source, weights)
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
            theta = None
        if theta is None or not bool(theta.isfinite().all()):
            raise ValueError(
                f"these {target.shape[1]} points do not determine {self!r}; give more of them, "
                "finite and not all in one place"
            )
        return theta

    def _checked(self, theta: Tensor, points: Tensor | None) -> tuple[Tensor, Tensor]:
        check_theta(theta, self.num_params, self)
        theta = widen(theta)
        if points is None:
            return theta, theta
        points = check_points(points, self.dim)
        if points.shape[0] not in (1, theta.shape[0]) and theta.shape[0] != 1:
            raise ValueError(
                f"theta and points must agree in their batch, got {theta.shape[0]} and "
                f"{points.shape[0]}"
            )
        dtype = torch.promote_types(theta.dtype, points.dtype)
        batch = points.shape[0] if theta.shape[0] == 1 else theta.shape[0]
        return theta.to(dtype).expand(batch, -1), points.to(dtype)

    def _hide_invalid(
        self, theta: Tensor, size: tuple[int, ...], align: bool, values: Tensor
    ) -> Tensor:
        if type(self).valid_at is Transform.valid_at:
            return values
        points = coords.target_points(size, align, theta.dtype, theta.device)
        valid = self.valid_at(theta, points.unsqueeze(0))
        return values if valid is None else torch.where(valid.unsqueeze(-1), values, torch.nan)

    def _apply(self, fn, recurse=True):
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class MatrixTransform(Transform):
    """A family whose maps are matrices on homogeneous points.

    Hooks: ``offset(theta)``, the matrix minus the identity, computed without cancellation, and
    ``theta_of(matrix)``, which need only be right for matrices in the family.
    """

    kind = "affine"

    def offset(self, theta: Tensor) -> Tensor:
        raise NotImplementedError

    def _places(self, theta: Tensor, size: tuple[int, ...], align: bool) -> Places:
        if self.linear_in_theta:
            offset = self.offset(theta)
        else:
            lost = ~theta.isfinite().all(-1, keepdim=True)
            offset = self.offset(theta.masked_fill(lost, 0))
            offset = offset.masked_fill(lost.unsqueeze(-1), torch.nan)
        return Places(self.kind, offset, size, (theta.shape[0],), align)

    def theta_of(self, matrix: Tensor) -> Tensor:
        raise NotImplementedError

    @full_precision
    def matrix(self, theta: Tensor) -> Tensor:
        """Target -> source matrices (B, dim, dim + 1); Projective (B, dim + 1, dim + 1)."""
        theta, _ = self._checked(theta, None)
        offset = self.offset(theta)
        rows, columns = offset.shape[-2:]
        return offset + torch.eye(rows, columns, dtype=offset.dtype, device=offset.device)

    @full_precision
    def from_matrix(self, m: Tensor) -> Tensor:
        """theta (B, num_params) of matrices (B, dim, dim + 1) or (B, dim + 1, dim + 1).

        Raises:
            ValueError: a matrix is not in the family.
        """
        check_floating(m, "m")
        rows = self.matrix(torch.zeros(1, self.num_params)).shape[-2]
        full = (self.dim + 1, self.dim + 1)
        if m.dim() != 3 or m.shape[-2:] not in ((rows, self.dim + 1), full):
            raise ValueError(
                f"{self!r}.from_matrix takes (B, {rows}, {self.dim + 1}) or "
                f"(B, {full[0]}, {full[1]}), got {shape_of(m)}"
            )
        m = widen(m)
        scaled = m / m[..., -1:, -1:] if m.shape[-2:] == full else m
        theta = self.theta_of(scaled[..., :rows, :])
        back = self.matrix(theta)
        if rows == self.dim and m.shape[-2:] == full:
            last = torch.zeros_like(scaled[..., :1, :])
            last[..., -1] = 1
            back = torch.cat([back, last], dim=-2)
        tolerance = 100 * torch.finfo(m.dtype).eps * scaled.abs().amax((-2, -1)).clamp(min=1)
        bad = ~((back - scaled).abs().amax((-2, -1)) <= tolerance) | ~theta.isfinite().all(-1)
        if bool(bad.any()):
            raise ValueError(
                f"matrix {int(bad.nonzero()[0])} of the batch is not in the family {self!r}; "
                "use Affine or Projective, or fit() for the nearest member"
            )
        return theta


def check_transform(transform: Transform) -> None:
    if not isinstance(transform, Transform):
        got = transform if isinstance(transform, type | str) else type(transform).__name__
        raise TypeError(f"transform must be a family's instance, such as stn.Affine(), got {got!r}")
