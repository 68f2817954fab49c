"""What is measured, as data: shapes, goals and gates.

Goals and gates are speed-ups over the case's baseline. Gates are for CPUs with AVX-512 and lower by
WITHOUT_AVX512 on others. On a GPU stn must never be slower.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

DIRECTIONS: tuple[str, ...] = ("forward", "theta", "both")
BASELINES = {"tps": "kornia", "antialias": "plain"}  # of the other kinds: torch
WITHOUT_AVX512 = 0.7
GPU_GOAL = {"forward": 1.5, "theta": 3.0, "both": 3.0}
GPU_GATE = 1.0

Speedups = Mapping[str, float]


@dataclass(frozen=True)
class Case:
    """One operation on one shape.

    Args:
        name: as in `stn bench --cases`.
        kind: "warp" by an affine theta, "grid" (a given grid), "tps", "antialias", "shrink" (a pure
            one, antialiased), "training" (a step of st-fcn-affine).
        batch, channels, input_size, size: (B, C, *input_size) -> (B, C, *size).
        directions: "forward"; "theta", with the gradient to theta or the grid; "both", with that to
            the image too; "memory", the peak of "both"; "step", of training.
        dtype, channels_last: of the image.
        lattice: of the control points of "tps".
        goal: by direction.
        gate: by threads and direction.
    """

    name: str
    kind: str
    batch: int
    channels: int
    input_size: tuple[int, ...]
    size: tuple[int, ...]
    directions: tuple[str, ...] = DIRECTIONS
    dtype: str = "float32"
    channels_last: bool = False
    lattice: tuple[int, int] | None = None
    goal: Speedups = field(default_factory=dict)
    gate: Mapping[int, Speedups] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        return len(self.size)

    @property
    def baseline(self) -> str:
        return BASELINES.get(self.kind, "torch")

    @property
    def title(self) -> str:
        """Such as "8, 3, 224² bfloat16"."""
        sizes = dict.fromkeys(map(_product, (self.input_size, self.size)))
        words = [f"{self.batch}, {self.channels}, {' → '.join(sizes)}"]
        words += [self.dtype] * (self.dtype != "float32")
        words += ["channels_last"] * self.channels_last
        words += [f"{self.lattice[0] * self.lattice[1]} points"] if self.lattice else []
        return " ".join(words)

    def targets(
        self, direction: str, threads: int, device: str, avx512: bool
    ) -> tuple[float | None, float | None]:
        """Goal and gate, None where there is none."""
        if device == "cuda":
            aimed = direction in GPU_GOAL and self.kind in ("warp", "grid")
            return (GPU_GOAL[direction], GPU_GATE) if aimed else (None, None)
        gate = self.gate.get(threads, {}).get(direction)
        if gate is not None and not avx512:
            gate = round(gate * WITHOUT_AVX512, 3)
        return self.goal.get(direction), gate


def _product(size: tuple[int, ...]) -> str:
    if len(set(size)) == 1:
        return f"{size[0]}{'⁰¹²³'[len(size)]}"
    return " x ".join(map(str, size))


def _warp(name, batch, channels, input_size, size, goal, one, two) -> Case:
    def by(values: tuple[float, ...]) -> dict[str, float]:
        return dict(zip(DIRECTIONS, values, strict=True))

    gate = {1: by(one), 2: by(two)}
    return Case(name, "warp", batch, channels, input_size, size, goal=by(goal), gate=gate)


# B, C, input, output; goal, gate on one thread, on two: of forward, theta, both
TABLE = (
    _warp("digits-42", 256, 1, (42, 42), (28, 28), (20, 12, 8), (7, 5, 3.5), (7, 4.5, 3.4)),
    _warp("digits-60", 256, 1, (60, 60), (28, 28), (20, 12, 8), (7, 5, 3.5), (6.5, 4.5, 3.4)),
    _warp("photos", 8, 3, (224, 224), (224, 224), (10, 7, 6), (2.5, 2.1, 2.1), (3.4, 3, 2.5)),
    _warp("frame", 1, 3, (1080, 1920), (1080, 1920), (12, 9, 7), (3, 2.3, 1.8), (4.3, 3.3, 2.8)),
    _warp("features", 4, 32, (64, 64), (64, 64), (10, 8, 10), (4.5, 3.6, 4), (4.5, 3.6, 4)),
    _warp("volumes-28", 32, 1, (28,) * 3, (28,) * 3, (30, 20, 15), (11, 8, 6), (12, 9, 6)),
    _warp("volume-128", 1, 1, (128,) * 3, (128,) * 3, (35, 20, 15), (8.5, 5.7, 4.4), (12, 10, 6.2)),
    _warp("features-3d", 2, 16, (32,) * 3, (32,) * 3, (25, 20, 18), (10, 9, 7.5), (10, 9, 7.5)),
)
GRIDS = tuple(
    Case(f"grid-{case.name}", "grid", case.batch, case.channels, case.input_size, case.size)
    for case in TABLE
)


def _spline(side: int, goal: float, gate: float) -> Case:
    return Case(
        name=f"tps-{side * side}",
        kind="tps",
        batch=256,
        channels=1,
        input_size=(42, 42),
        size=(42, 42),
        lattice=(side, side),
        goal={"both": goal},
        gate={1: {"both": gate}, 2: {"both": gate}},
    )


OTHERS = (
    _spline(4, 45, 25),
    _spline(10, 250, 120),
    Case("tiny-8", "warp", 1, 1, (8, 8), (8, 8)),
    Case("tiny-28", "warp", 4, 1, (28, 28), (28, 28)),
    Case("photos-bfloat16", "warp", 8, 3, (224, 224), (224, 224), dtype="bfloat16"),
    Case("photos-float16", "warp", 8, 3, (224, 224), (224, 224), dtype="float16"),
    Case("photos-last", "warp", 8, 3, (224, 224), (224, 224), channels_last=True),
    Case("features-last", "warp", 4, 32, (64, 64), (64, 64), channels_last=True),
    Case("antialias", "antialias", 1, 3, (512, 512), (64, 64)),
    Case("shrink", "shrink", 1, 3, (512, 512), (64, 64), ("forward",)),
    Case(
        name="training",
        kind="training",
        batch=256,
        channels=1,
        input_size=(42, 42),
        size=(42, 42),
        directions=("step",),
        goal={"step": 1.6},
        gate={1: {"step": 1.3}, 2: {"step": 1.3}},
    ),
    Case("memory-frame", "warp", 1, 3, (1080, 1920), (1080, 1920), ("memory",)),
    Case("memory-volume", "warp", 1, 1, (192, 160, 224), (192, 160, 224), ("memory",)),
)
CASES = (*TABLE, *GRIDS, *OTHERS)


def select(names: Sequence[str]) -> list[Case]:
    """Cases by name or kind, in the table's order; all for no names.

    Raises:
        ValueError: a name that no case and no kind has.
    """
    known = dict.fromkeys([case.kind for case in CASES] + [case.name for case in CASES])
    for name in names:
        if name not in known:
            raise ValueError(f"unknown case {name!r}; known are {', '.join(known)}")
    return [case for case in CASES if not names or {case.name, case.kind} & set(names)]
