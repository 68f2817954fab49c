"""Inverse of a smooth map without a closed form: damped Newton, differentiated implicitly."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..linalg import inverse_or_nan

STEPS = 60
START_NODES = 9


def newton_inverse(
    function: Callable[[Tensor], Tensor], jacobian: Callable[[Tensor], Tensor], values: Tensor
) -> Tensor:
    """Points (B, N, dim) with function(points) = values; NaN where none was found.

    Newton runs outside the graph from the best node of a coarse lattice. Two more Newton steps
    inside the graph, from the solution, have the derivatives of the implicit function up to third
    order: each step doubles the order of agreement.
    """
    with torch.no_grad():  # detached too, because forward-mode derivatives pass through no_grad
        solution = _solve(
            lambda p: function(p).detach(), lambda p: jacobian(p).detach(), values.detach()
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


def _solve(
    function: Callable[[Tensor], Tensor], jacobian: Callable[[Tensor], Tensor], values: Tensor
) -> Tensor:
    def error_at(points: Tensor) -> Tensor:
        return (function(points) - values).norm(dim=-1, keepdim=True)

    x = _coarse_start(function, values)
    error = error_at(x)
    tolerance = 64 * torch.finfo(values.dtype).eps * (1 + values.norm(dim=-1, keepdim=True))
    for _ in range(STEPS):
        step = _newton_step(jacobian(x), function(x) - values)
        step = step.nan_to_num(0.0, 0.0, 0.0)
        trial, new_error = x - step, error_at(x - step)
        for halving in range(1, 12):
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


def _coarse_start(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """For each value the lattice node, or the value itself, whose image comes closest."""
    batch, _, dim = values.shape
    axis = torch.linspace(-1.5, 1.5, START_NODES, dtype=values.dtype, device=values.device)
    nodes = torch.cartesian_prod(*[axis] * dim).expand(batch, -1, -1)
    nearest = torch.cdist(values, function(nodes)).nan_to_num(torch.inf)
    distance, index = nearest.min(-1, keepdim=True)
    start = nodes.gather(1, index.expand(-1, -1, dim))
    own = (function(values) - values).norm(dim=-1, keepdim=True)
    return torch.where(own < distance, values, start)
