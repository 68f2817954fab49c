"""Which backend runs a call."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from .._checks import check_choice
from . import aten, reference
from .kernels import Mode


class Call(NamedTuple):
    """What a backend must know to say whether it can run."""

    dim: int
    mode: Mode
    padding_mode: str
    empty: bool
    antialias: bool = False


# In order of preference.
BACKENDS: dict[str, Callable[..., Tensor]] = {"torch": aten.sample, "reference": reference.sample}


def can_run(backend: str, call: Call) -> str | None:
    """None when `backend` can run `call`, else the reason why not."""
    check_choice(backend, tuple(BACKENDS), "backend")
    return aten.reason_against(*call) if backend == "torch" else None


def choose(call: Call, backend: str | None = None) -> Callable[..., Tensor]:
    """The sampler for `call`: the first that can run it, or `backend` or a ValueError."""
    if backend is not None:
        reason = can_run(backend, call)
        if reason is not None:
            raise ValueError(f"backend {backend!r} cannot run this call: {reason}")
        return BACKENDS[backend]
    return next(run for name, run in BACKENDS.items() if can_run(name, call) is None)
