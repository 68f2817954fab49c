"""The tensors of a case, and what a contender is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import stn

from .cases import Case

SEED = 2015
LINEAR, SHIFT, BENT = 0.15, 0.1, 0.02  # standard deviations about the identity
PERIOD_PX = 8  # of the smooth random images: a sample displaced by 0.01 px can be seen


class Cannot(Exception):
    """Why a contender cannot take part in a case."""


class Contender(NamedTuple):
    """One way to do a case's operation: run(image, parameter), each in the form it likes best.

    Fields:
        run: what is timed.
        image, parameter: made from a Problem's, differentiably unless `gradients` is False.
        gradients: whether it has any.
        differs: why it rightly computes something else: a yardstick of cost.
        to_tensor: of what run returns; not timed.
    """

    run: Callable[[Any, Any], Any]
    image: Any
    parameter: Any
    gradients: bool = True
    differs: str = ""
    to_tensor: Callable[[Any], Tensor] = lambda output: output


class Problem(NamedTuple):
    """A case's tensors: images, parameter (theta, offset from the identity, or the grid), and the
    gradient that comes from above."""

    case: Case
    image: Tensor
    parameter: Tensor
    cotangent: Tensor

    def leaves(self, direction: str) -> list[Tensor]:
        """The tensors whose gradients a direction asks for."""
        if direction in ("forward", "step"):
            return []
        return [self.parameter] if direction == "theta" else [self.parameter, self.image]

    def prepared(self, direction: str, double: bool = False) -> "Problem":
        """A copy whose leaves require grad, in float64 if `double`."""
        tensors = [t.detach().double() if double else t.detach() for t in self[1:]]
        copy = Problem(self.case, *tensors)
        for leaf in copy.leaves(direction):
            leaf.requires_grad_()
        return copy


def make_problem(case: Case, device: str) -> Problem:
    """The same tensors at every call and on every device."""
    draw = torch.Generator().manual_seed(SEED)
    coarse = [max(2, n // PERIOD_PX) for n in case.input_size]
    image = torch.rand(case.batch, case.channels, *coarse, generator=draw)
    smooth = "bicubic" if case.dim == 2 else "trilinear"
    image = F.interpolate(image, case.input_size, mode=smooth).to(getattr(torch, case.dtype))
    if case.channels_last:
        image = image.to(
            memory_format=torch.channels_last if case.dim == 2 else torch.channels_last_3d
        )
    cotangent = torch.randn(case.batch, case.channels, *case.size, generator=draw)
    tensors = image, _parameter(case, draw), cotangent.to(image.dtype)
    return Problem(case, *(tensor.to(device) for tensor in tensors))


def _parameter(case: Case, draw: torch.Generator) -> Tensor:
    if case.kind == "tps":
        assert case.lattice is not None
        points = 2 * case.lattice[0] * case.lattice[1]
        return BENT * torch.randn(case.batch, points, generator=draw)
    affine = stn.Affine(case.dim)
    if case.kind in ("shrink", "training"):
        return torch.zeros(case.batch, affine.num_params)
    theta = torch.randn(case.batch, case.dim, case.dim + 1, generator=draw).clamp(-2, 2)
    theta[..., :-1] *= LINEAR
    theta[..., -1] *= SHIFT
    theta = theta.flatten(1)
    return affine.grid(theta, case.size).contiguous() if case.kind == "grid" else theta


def fitting(cotangent: Tensor, output: Tensor) -> Tensor:
    """The cotangent, or ones where a yardstick returns another shape."""
    return cotangent if cotangent.shape == output.shape else torch.ones_like(output)


def call_of(problem: Problem, build: Callable[[Problem], Contender], direction: str):
    """The function without arguments that is timed.

    Raises:
        Cannot: the contender has no gradients.
    """
    contender = build(problem)
    run, image, parameter = contender.run, contender.image, contender.parameter
    if direction in ("forward", "step"):
        return lambda: run(image, parameter)
    if not contender.gradients:
        raise Cannot("has no gradients")
    parameter = parameter.detach().requires_grad_()
    image = image.detach().requires_grad_(direction != "theta")
    leaves = [tensor for tensor in (parameter, image) if tensor.requires_grad]
    cotangent = problem.cotangent
    if contender.differs:
        cotangent = fitting(cotangent, run(image, parameter))

    def forward_and_backward():
        return torch.autograd.grad(run(image, parameter), leaves, cotangent)

    return forward_and_backward
