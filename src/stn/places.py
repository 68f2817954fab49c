"""Where the pixels of an output read their image: what that is computed from, before it is."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import coords, linalg

MATRICES = ("affine", "projective")
FIELDS = ("grid", "px", "flow", "flow_px")


class Places(NamedTuple):
    """The source of every pixel of outputs of `size`, one row of `values` an output.

    Args:
        kind: what the rows are. A matrix minus the identity, in normalised coordinates, row-major:
            "affine" (dim, dim + 1) or "projective" (dim + 1, dim + 1). Or a field (N, dim): "grid",
            normalised places; "px", places in pixels of the input; "flow" and "flow_px", the
            displacement from the target's own place in the one unit or the other.
        values: (R, …) in float32 or wider.
        size: of the outputs.
        lead: (B,), or (B, K) for K outputs of each image; R is their product.
        align_corners: of the normalised coordinates.
    """

    kind: str
    values: Tensor
    size: tuple[int, ...]
    lead: tuple[int, ...]
    align_corners: bool = False

    def pixels(self, input_size: Sequence[int]) -> Tensor:
        """The places (*lead, *size, dim) in px of an input of `input_size`, float64."""
        px = pixels_of(self.kind, self.values, self.size, input_size, self.align_corners)
        return px.unflatten(1, self.size).unflatten(0, self.lead)


def pixels_of(
    kind: str,
    values: Tensor,
    size: Sequence[int],
    input_size: Sequence[int],
    align_corners: bool,
) -> Tensor:
    """The places (R, N, dim) that `Places` describes."""
    if kind == "px":
        return values.double()
    if kind == "grid":
        return coords.to_pixels(values, input_size, align_corners)
    if kind == "flow":
        return coords.shifted_pixels(values, size, input_size, align_corners)
    if kind == "flow_px":
        base = coords.identity_pixels(size, input_size, align_corners, values.device)
        return base + values.double()
    rows = len(size) + (kind == "projective")
    values = values.reshape(values.shape[0], rows, len(size) + 1)
    points = coords.target_points(size, align_corners, torch.float64, values.device)
    if kind == "affine":  # a row that is not finite loses all its points, its gradient stays zero
        shift = linalg.move_all(values.double(), points)
        return coords.shifted_pixels(shift, size, input_size, align_corners)
    # A row that is not finite is lost whole, and kept out of the formulas: they would turn its
    # zero gradient into NaN.
    lost = ~values.isfinite().flatten(1).all(-1)[:, None, None]
    offset = values.masked_fill(lost, 0).double()
    shift = linalg.homogeneous_displacement(offset, points.unsqueeze(0))
    front = linalg.in_front(offset, points.unsqueeze(0))
    shift = torch.where(front.unsqueeze(-1) & ~lost, shift, torch.nan)
    return coords.shifted_pixels(shift, size, input_size, align_corners)
