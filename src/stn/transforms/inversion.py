"""Inverse of a smooth map without a closed form: damped Newton, differentiated implicitly."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import coords
from ..linalg import inverse_or_nan
from ..splines import invert_simplices

STEPS, FIRST_STEPS = 60, 12
HALVINGS = 11
LEAPS, LONGEST = 12, 10.0
COARSE, FINE = (1.5, {2: 9, 3: 9}), (2.0, {2: 73, 3: 17})  # reach and nodes of the starts' lattice
STARTS = 8
CHUNK = 1 << 23
Map = Callable[[Tensor], Tensor]


def newton_inverse(
    function: Map, jacobian: Map, values: Tensor, start: Tensor | None = None
) -> Tensor:
    """Points (B, N, dim) with function(points) = values; NaN where none was found.

    Newton runs outside the graph, from `start` (NaN: none) or from the best node of a coarse
    lattice. What it misses starts again on a fine lattice: where the piecewise affine copy of the
    map through its nodes has the answer, then from the nodes whose image comes closer than their
    neighbours'. Two more Newton steps inside the graph, from the solution, have the derivatives of
    the implicit function up to third order: each doubles the order of agreement.
    """
    with torch.no_grad():  # detached too, because forward-mode derivatives pass through no_grad
        solution = _solve(
            lambda p: function(p).detach(),
            lambda p: jacobian(p).detach(),
            values.detach(),
            start,
        )
    failed = ~solution.isfinite().all(-1, keepdim=True)
    solution = torch.where(failed, 0.0, solution)
    for _ in range(2):
        residual = function(solution) - values
        solution = solution - _newton_step(jacobian(solution), residual)
    return torch.where(failed, torch.nan, solution)


def _newton_step(jacobian: Tensor, residual: Tensor) -> Tensor:
    inverse = inverse_or_nan(jacobian)
    return (inverse * residual.unsqueeze(-2)).sum(-1)


def _solve(function: Map, jacobian: Map, values: Tensor, start: Tensor | None) -> Tensor:
    if start is not None:
        return _newton(function, jacobian, values, start.detach())
    nodes = _nodes(values, *COARSE)
    nearest = torch.cdist(values, function(nodes)).nan_to_num(torch.inf)
    distance, index = nearest.min(-1, keepdim=True)
    start = nodes.gather(1, index.expand(-1, -1, values.shape[-1]))
    own = (function(values) - values).norm(dim=-1, keepdim=True)
    start = torch.where(own < distance, values, start)
    solution = _newton(function, jacobian, values, start, FIRST_STEPS)
    return _start_again(function, jacobian, values, solution)


def _newton(function: Map, jacobian: Map, values: Tensor, x: Tensor, steps: int = STEPS) -> Tensor:
    """Solutions from the starts x; NaN where the steps end without one. Only downhill."""

    def error_at(points: Tensor) -> Tensor:
        return (function(points) - values).norm(dim=-1, keepdim=True)

    error, tolerance = error_at(x), _tolerance(values)
    for _ in range(steps):
        step = _newton_step(jacobian(x), function(x) - values)
        step = step.nan_to_num(0.0, 0.0, 0.0)
        trial, new_error = x - step, error_at(x - step)
        for halving in range(1, HALVINGS + 1):
            worse = ~(new_error < error) & (error > tolerance)
            if not bool(worse.any()):
                break
            trial = torch.where(worse, x - step / 2**halving, trial)
            new_error = torch.where(worse, error_at(trial), new_error)
        better = new_error < error
        x, error = torch.where(better, trial, x), torch.where(better, new_error, error)
        if not bool((better & (error > tolerance)).any()):
            break
    return torch.where(error <= tolerance, x, torch.nan)


def _leaps(function: Map, jacobian: Map, values: Tensor, x: Tensor) -> Tensor:
    """The same by a few whole steps, which also leave a kink where every way down is blocked."""
    tolerance = _tolerance(values)
    for _ in range(LEAPS):
        step = _newton_step(jacobian(x), function(x) - values)
        x = x - torch.where(step.norm(dim=-1, keepdim=True) < LONGEST, step, 0)
    error = (function(x) - values).norm(dim=-1, keepdim=True)
    return torch.where(error <= tolerance, x, torch.nan)


def _tolerance(values: Tensor) -> Tensor:
    return 64 * torch.finfo(values.dtype).eps * (1 + values.norm(dim=-1, keepdim=True))


def _start_again(function: Map, jacobian: Map, values: Tensor, solution: Tensor) -> Tensor:
    """`solution` with its gaps filled from the starts on the fine lattice, where they lead on."""
    gaps = ~solution.isfinite().all(-1) & values.isfinite().all(-1)
    count = int(gaps.sum(-1).max()) if gaps.numel() else 0
    if not count:
        return solution
    # The gaps of each image first, in as many columns as the worst image needs.
    columns = gaps.byte().argsort(dim=-1, descending=True, stable=True)[:, :count]
    nodes, dim = _nodes(values, *FINE), values.shape[-1]
    images = function(nodes)
    for part in columns.split(max(1, CHUNK // (len(values) * nodes.shape[1])), dim=1):
        index = part.unsqueeze(-1).expand(-1, -1, values.shape[-1])
        wanted = values.gather(1, index)
        answer = solution.gather(1, index)
        place = invert_simplices(images, [FINE[1][dim]] * dim, wanted)
        inside = FINE[0] * coords.to_normalized(place, [FINE[1][dim]] * dim, align_corners=True)
        for start in (inside.to(wanted), *_valleys(nodes, images, wanted)):
            for search in (_newton, _leaps):
                open = ~answer.isfinite().all(-1, keepdim=True)
                if not bool(open.any()):
                    break
                found = search(function, jacobian, wanted, torch.where(open, start, answer))
                answer = torch.where(open, found, answer)
        solution = solution.scatter(1, index, answer)
    return solution


def _valleys(nodes: Tensor, images: Tensor, values: Tensor) -> tuple[Tensor, ...]:
    """The best STARTS nodes (B, N, dim) whose image is no farther than those of its neighbours."""
    dim = values.shape[-1]
    near = -torch.cdist(values, images).nan_to_num(torch.inf)
    shape = [FINE[1][dim]] * dim
    pool = F.max_pool2d if dim == 2 else F.max_pool3d
    around = pool(near.unflatten(-1, shape), 3, stride=1, padding=1).flatten(2)
    best = torch.where(near >= around, near, -torch.inf).topk(STARTS).indices
    starts = nodes.gather(1, best.flatten(1).unsqueeze(-1).expand(-1, -1, dim))
    return starts.unflatten(1, tuple(best.shape[1:])).unbind(2)


def _nodes(values: Tensor, reach: float, count: dict[int, int]) -> Tensor:
    """Nodes (B, K, dim) of a lattice over [-reach, reach], row-major."""
    batch, _, dim = values.shape
    points = coords.lattice_points([count[dim]] * dim).to(values)
    return (reach * points).expand(batch, -1, -1)
