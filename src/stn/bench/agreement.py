"""Whether a contender computes what it should: only then is it timed."""

from typing import NamedTuple

import torch
from torch import Tensor

from .problem import Cannot, Problem, fitting
from .rivals import Build

# Largest difference of an output, images being in about [0, 1].
OUTPUT = {"float32": 2e-3, "float16": 4e-3, "bfloat16": 2e-2}
FIXED_POINT = {"opencv": 3e-2}  # places to 1/32 px
# Of a gradient, the norm of the difference over the norm.
GRADIENT = {"float32": 1e-2, "float16": 2e-2, "bfloat16": 5e-2}
MARGIN = {"shrink": 2}  # output px at the border, where padding conventions differ


class Agreement(NamedTuple):
    """How far a contender is from the truth.

    Fields:
        difference: largest of the output.
        gradient_difference: the norm of the difference over the norm.
        reason: None, or in which way it is too far, or why a yardstick may be.
        timed: whether it goes on to be timed.
    """

    difference: float | None
    gradient_difference: float | None
    reason: str | None
    timed: bool


def results_of(build: Build, problem: Problem, direction: str, double: bool = False):
    """The output and the gradients that a direction asks for, in float64.

    Raises:
        Cannot: the contender cannot do it.
    """
    problem = problem.prepared(direction, double)
    leaves = problem.leaves(direction)
    contender = build(problem)
    if leaves and not contender.gradients:
        raise Cannot("has no gradients")
    output = contender.to_tensor(contender.run(contender.image, contender.parameter))
    cotangent = fitting(problem.cotangent, output) if contender.differs else problem.cotangent
    found = torch.autograd.grad(output, leaves, cotangent) if leaves else ()
    return [tensor.detach().double() for tensor in (output, *found)]


def compare(
    name: str, build: Build, problem: Problem, direction: str, expected: list[Tensor]
) -> Agreement:
    """Hold a contender against the expected results."""
    output, *gradients = results_of(build, problem, direction)
    case, differs = problem.case, build(problem).differs
    if output.shape != expected[0].shape:
        shapes = f"returns {tuple(output.shape)} instead of {tuple(expected[0].shape)}"
        return Agreement(None, None, differs or shapes, bool(differs))
    margin = MARGIN.get(case.kind, 0)
    inner = (..., *[slice(margin, n - margin) for n in case.size]) if margin else ...
    difference = float((output - expected[0])[inner].abs().max())
    errors = [
        float((gradient - right).norm() / right.norm())
        for gradient, right in zip(gradients, expected[1:], strict=True)
    ]
    error = max(errors, default=None)
    if differs:
        return Agreement(difference, error, differs, True)
    allowed = FIXED_POINT.get(name, OUTPUT[case.dtype])
    reason = None
    if not difference <= allowed:
        reason = f"output differs by {difference:.2g}, {allowed:g} is allowed"
    elif error is not None and not error <= GRADIENT[case.dtype]:
        reason = f"gradient differs by {error:.2g}, {GRADIENT[case.dtype]:g} is allowed"
    return Agreement(difference, error, reason, reason is None)
