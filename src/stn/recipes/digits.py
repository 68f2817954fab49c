"""Naming distorted digits (Jaderberg et al. 2015, section 4.1, Table 1, appendices A.1 and A.3)."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from ..data import (
    TASKS,
    DigitStream,
    FrozenSet,
    MoveLattice,
    Splits,
    frozen_chunks,
    joined,
    load_mnist,
    split_mnist,
)
from ..evaluation import in_chunks, logits_of, pose_spread
from ..models import BASES, TENSORS, Ensemble, NetSpec, Network
from ..training import Processes, TrainingConfig, theta_recorder, train, write_tensors
from ..training.loop import Progress
from .experiment import FROZEN_SEED, Experiment, Measured, Shown, measured, told

TRAINING_DIGITS = 55_000
BATCH = 128
HELD_OUT_VOLUMES = 1000
# Average pooling after the transformer, as in the paper, and the size that it makes of volumes.
POOLED = {"rts": 2, "tc": 2, "addition": 2}
SIZES = {"volumes": (30, 30, 30)}

# The quick column: minutes. Epochs of each set.
QUICK_EPOCHS = {"r": 8, "rts": 8, "p": 8, "p-42": 8, "e": 8, "tc": 20, "addition": 20, "volumes": 2}
QUICK_LR = {"fcn": 3e-3, "cnn": 2e-3, "vgg": 2e-3, "conv5": 2e-3}

# The faithful column: the paper's networks, without batch norm, on a schedule that two cores can
# run, the same for a net and its twins. The paper: SGD, 640 epochs. The learning rate of the fully
# connected nets was the best of 1e-3, 2e-3, 3e-3 and 5e-3 on held-out RTS digits at 10 epochs; SGD
# with 0.1 did as well for fcn, but its transformer twin did not learn. The rate of the
# convolutional nets was the best of five on held-out R and RTS digits at 4 epochs
# (benchmarks/choose.py); they train in bfloat16, which takes half the time.
FAITHFUL_EPOCHS = {"fcn": 60, "cnn": 30, "vgg": 30, "conv5": 30}
FAITHFUL_LR = {"fcn": 3e-3, "cnn": 5e-3, "vgg": 5e-3, "conv5": 5e-3}
FAITHFUL_VOLUME_EPOCHS = 10
# The long column: the faithful one for as long as the paper trained.
LONG_EPOCHS = 640
REPEATS = 5
# Bent digits: bicubic, as a second bilinear warp would make them softer than those to be named.
BEND_SCALES = (0.9, 1.1)
BEND_MODE = "bicubic"

# The best column: the network for each set, and the best error, %, that anyone has published.
BEST = {
    "r": "st-vgg-similarity", "rts": "st-conv5-similarity", "p": "st-vgg-affine",
    "e": "st-vgg-affine", "tc": "st-vgg-similarity", "addition": "2xst-conv5-similarity",
}  # fmt: skip
# Their classifiers without a transformer, where they, too, see 28 x 28 px and cost as much.
CONTROLS = {name: BEST[name].split("-")[1] for name in ("e", "p", "r")}
# Where transformers begin as near as 28 x 28 px of the image are, not with all of it.
NEAR = ("rts", "addition")
# Networks that learn apart and answer together, within the budget of one.
MEMBERS = {"r": 3}
BEST_EPOCHS = {"r": 30, "rts": 30, "p": 30, "e": 15, "tc": 10, "addition": 30}
BEST_LR = 2e-3
PUBLISHED = {"r": 0.61, "rts": 0.5, "p": 0.8, "e": 1.1, "tc": 1.7, "addition": 5.8}

# % test error, Table 1, section 4.1 and Table 4; TC is given for affine transformers only.
PAPER = {
    "r": {
        "fcn": 2.1, "cnn": 1.2,
        "st-fcn-affine": 1.2, "st-fcn-projective": 1.3, "st-fcn-tps": 1.1,
        "st-cnn-affine": 0.7, "st-cnn-projective": 0.8, "st-cnn-tps": 0.7,
    },
    "rts": {
        "fcn": 5.2, "cnn": 0.8,
        "st-fcn-affine": 0.8, "st-fcn-projective": 0.9, "st-fcn-tps": 0.8,
        "st-cnn-affine": 0.5, "st-cnn-projective": 0.6, "st-cnn-tps": 0.5,
    },
    "p": {
        "fcn": 3.1, "cnn": 1.5,
        "st-fcn-affine": 1.5, "st-fcn-projective": 1.4, "st-fcn-tps": 1.4,
        "st-cnn-affine": 0.8, "st-cnn-projective": 0.8, "st-cnn-tps": 0.8,
    },
    "e": {
        "fcn": 3.2, "cnn": 1.4,
        "st-fcn-affine": 2.7, "st-fcn-projective": 2.6, "st-fcn-tps": 2.4,
        "st-cnn-affine": 1.2, "st-cnn-projective": 1.3, "st-cnn-tps": 1.1,
    },
    "tc": {"fcn": 13.2, "cnn": 3.5, "st-fcn-affine": 2.0, "st-cnn-affine": 1.7},
    "addition": {
        "fcn": 47.7, "cnn": 14.7,
        "st-fcn-affine": 22.6, "st-fcn-projective": 18.5, "st-fcn-tps": 19.1,
        "2xst-fcn-affine": 9.0, "2xst-fcn-projective": 5.9, "2xst-fcn-tps": 5.8,
    },
    # The paper shows no errors of these.
    "p-42": {}, "volumes": {},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Digits(Experiment):
    """A network that names distorted digits.

    Args:
        distortion: a task of `stn.data.TASKS`.
        net, training: the choices in full.
        test_repeats: frozen distortions of the test digits over which the error is averaged.
        bend_px: training digits are bent before they are distorted, 0 for not: the nodes of a
            spline move by this (standard deviation), and it scales by 0.9-1.1.
    """

    distortion: str
    net: NetSpec
    training: TrainingConfig
    test_repeats: int = 1
    bend_px: float = 0.0

    @property
    def run_seed(self) -> int:
        return self.training.seed

    def changed(self, epochs: float | None, lr: float | None) -> "Digits":
        training = self.training
        if epochs is not None:
            steps, every = _length(epochs, training.batch_size)
            training = replace(training, steps=steps, evaluate_every=every)
        if lr is not None:
            training = replace(training, lr=lr)
        return replace(self, training=training)

    def load(self) -> Splits:
        return split_mnist(load_mnist())

    def evaluate(self, model: nn.Module, data: Splits, split: str, repeat: int) -> Measured:
        chunks = frozen_digits(self.distortion, data, split, repeat)
        return measured(model, ((chunk.images, chunk.labels) for chunk in chunks))

    def shown(self, data: Splits) -> Shown:
        chunks = frozen_digits(self.distortion, data, "test", 0)
        # All volumes would not fit into memory.
        digits = joined(chunks if len(self.net.shape) == 3 else islice(chunks, 10))
        names = tuple(str(number) for number in range(self.net.classes))
        return Shown(digits.images, digits.labels, names)

    def stream(self, data: Splits, device: torch.device | str = "cpu") -> DigitStream:
        """The training digits, distorted."""
        size, seed = self.training.batch_size, self.training.seed
        bend = MoveLattice(self.bend_px, BEND_SCALES, mode=BEND_MODE) if self.bend_px else None
        return DigitStream(*data.train, self.distortion, size, seed, device, bend=bend)

    def run(
        self, folder: Path, data: Splits, processes: Processes, progress: Progress | None = None
    ) -> dict:
        training, device = self.training, processes.device
        torch.manual_seed(training.seed)
        model = self.net.build().to(device)
        stream = self.stream(data, device)
        held_out = joined(frozen_digits(self.distortion, data, "held-out", 0, device))
        chunks = in_chunks(held_out.images, held_out.labels)
        watch = theta_recorder(model, chunks, folder)
        trained = train(model, stream.batches, chunks, training, folder, processes, progress, watch)
        if processes.is_main:
            write_tensors(folder / TENSORS, model.state_dict())

        errors, pose = [], None
        for repeat in range(self.test_repeats):
            test = frozen_digits(self.distortion, data, "test", repeat, device)
            error, found = measure(model, test, posed=repeat == 0)
            errors.append(error)
            pose = pose or found
        return {
            "test_error_percent": sum(errors) / len(errors),
            "test_errors_percent": errors,
            **told(model, training, trained),
            "pose": pose,
        }


def frozen_digits(
    distortion: str, splits: Splits, part: str, repeat: int, device: torch.device | str = "cpu"
) -> Iterator[FrozenSet]:
    """Chunks of frozen distortion number `repeat` of the "held-out" or the "test" digits.

    Held-out volumes are the first thousand: more do not fit into memory.
    """
    images, labels = splits.test if part == "test" else splits.held_out
    if part == "held-out" and distortion == "volumes":
        images, labels = images[:HELD_OUT_VOLUMES], labels[:HELD_OUT_VOLUMES]
    pool = splits.train.images.to(device)
    seed = FROZEN_SEED + (part == "held-out")
    return frozen_chunks(images.to(device), labels.to(device), distortion, seed, repeat, pool)


@torch.no_grad()
def measure(
    model: Network | Ensemble, chunks: Iterable[FrozenSet], posed: bool
) -> tuple[float, dict]:
    """Error, %, and, if `posed`, the spread of each digit's pose before and after each transformer.

    Places are in pixels of the canvas, after a transformer too, whatever the size of its output.
    """
    wrong, poses, thetas, size = [], [], [], ()
    layer = model.transformer
    for chunk in chunks:
        wrong.append(logits_of(model, chunk.images).argmax(-1) != chunk.labels)
        if not posed:
            continue
        size = tuple(chunk.images.shape[2:])
        poses.append(_rows(chunk))
        if layer is not None:
            theta = layer.eval().theta(model.stem(chunk.images))
            thetas.append(theta.view(len(theta), -1, layer.composed().num_params))
    error = 100 * torch.cat(wrong).double().mean().item()
    if not posed:
        return error, {}
    pose = torch.cat(poses)
    digits = [f" digit {k}" * (pose.shape[1] > 1) for k in range(pose.shape[1])]
    found = {f"before{d}": pose_spread(pose[:, k], size) for k, d in enumerate(digits)}
    if layer is not None:
        theta = torch.cat(thetas)
        for number in range(theta.shape[1]):
            after = "after" + f" transformer {number}" * (theta.shape[1] > 1)
            for k, digit in enumerate(digits):
                spread = pose_spread(pose[:, k], size, layer.composed(), theta[:, number])
                found[after + digit] = spread
    return error, {name: spread._asdict() for name, spread in found.items()}


def _rows(chunk: FrozenSet) -> Tensor:
    """Poses (N, digits, P) as `pose_spread` takes them."""
    angle, scale, centre = chunk.pose
    if angle.dim() == scale.dim():  # one angle, not a rotation vector
        angle = angle.unsqueeze(-1)
    pose = torch.cat([angle, scale.unsqueeze(-1), centre], -1)
    return pose.view(len(pose), -1, pose.shape[-1])


def mnist_r(model: str, column: str, seed: int) -> Digits:
    """Digits rotated by up to 90 degrees either way.

    `stn train mnist-r --model MODEL`, quick column, one core (EPYC): 8 epochs; expect 1.8 % in 36 s
    for st-fcn-affine, 2.7 % for fcn.
    """
    return _digits("r", model, column, seed)


def mnist_rts(model: str, column: str, seed: int) -> Digits:
    """Digits rotated by up to 45 degrees, scaled by 0.7-1.2, at any place of a 42 x 42 image.

    `stn train mnist-rts --model MODEL`, quick column, one core (EPYC): 8 epochs; expect 1.9 % in
    70 s for st-fcn-affine, 12 % for fcn.
    """
    return _digits("rts", model, column, seed)


def mnist_p(model: str, column: str, seed: int) -> Digits:
    """Digits in perspective: scaled by 0.75-1, corners moved by 5 px (standard deviation).

    `stn train mnist-p --model MODEL`, quick column, one core (EPYC): 8 epochs; expect 4.3 % in 51 s
    for st-fcn-affine, 12 % for fcn.
    """
    return _digits("p", model, column, seed)


def mnist_p_42(model: str, column: str, seed: int) -> Digits:
    """As P, corners moved by 3.3 px: as much of 28 px as 5 are of 42, the canvas of RTS.

    `stn reproduce canvas`, faithful column, one core (EPYC): 60 epochs, 5 minutes a net.
    """
    return _digits("p-42", model, column, seed)


def mnist_e(model: str, column: str, seed: int) -> Digits:
    """Digits bent by a thin plate spline: 16 control points moved by 1.5 px.

    `stn train mnist-e --model MODEL`, quick column, one core (EPYC): 8 epochs; expect 2.2 % in 41 s
    for st-fcn-affine, 3.2 % for fcn.
    """
    return _digits("e", model, column, seed)


def mnist_tc(model: str, column: str, seed: int) -> Digits:
    """Digits at any place of a 60 x 60 image, among six 6 x 6 crops of other digits.

    `stn train mnist-tc --model MODEL`, quick column, two cores (EPYC): 20 epochs; expect 3 to 5 %
    in 70 s for st-fcn-affine, the last bits of its sums decide, and 21 % in 40 s for fcn.
    """
    return _digits("tc", model, column, seed)


def mnist_addition(model: str, column: str, seed: int) -> Digits:
    """The sum of two digits, each distorted as RTS in a channel of its own: 19 classes.

    `stn train mnist-addition --model MODEL`, quick column, one core (EPYC): 20 epochs.
    """
    return _digits("addition", model, column, seed)


def mnist_volumes(model: str, column: str, seed: int) -> Digits:
    """Digits as slabs, turned by up to 60 degrees and moved in 60 x 60 x 60 volumes.

    `stn train mnist-volumes --model MODEL`: 2 epochs; a 3-D transformer looks before the volume is
    flattened over its depth. fcn sees the flattened volume as it is.
    """
    return _digits("volumes", model, column, seed)


def _digits(name: str, model: str, column: str, seed: int) -> Digits:
    """The experiment of a cell: every column is a function of its own."""
    task = TASKS[name]
    net = NetSpec(name=model, shape=(task.digits, *task.canvas), classes=9 * task.digits + 1)
    base = next(base for base in BASES if base in model)
    net, training, repeats = COLUMNS[column](net, name, base)
    return Digits(
        recipe=f"mnist-{name}",
        model=model,
        column=column,
        distortion=name,
        net=net,
        training=replace(training, seed=seed),
        test_repeats=repeats,
        paper_error_percent=PUBLISHED[name] if column == "best" else PAPER[name].get(model),
    )


def _quick(net: NetSpec, name: str, base: str) -> tuple[NetSpec, TrainingConfig, int]:
    return _paper_net(net, name, base), _training(QUICK_EPOCHS[name], QUICK_LR[base]), 1


def _faithful(net: NetSpec, name: str, base: str) -> tuple[NetSpec, TrainingConfig, int]:
    net = replace(_paper_net(net, name, base), batch_norm=False)
    if name == "volumes":
        return net, _training(FAITHFUL_VOLUME_EPOCHS, FAITHFUL_LR[base]), 1
    precision = "float32" if base == "fcn" else "bfloat16"
    return net, _training(FAITHFUL_EPOCHS[base], FAITHFUL_LR[base], precision), REPEATS


def _long(net: NetSpec, name: str, base: str) -> tuple[NetSpec, TrainingConfig, int]:
    net, training, repeats = _faithful(net, name, base)
    return net, _training(LONG_EPOCHS, training.lr, training.precision), repeats


def _best(net: NetSpec, name: str, base: str) -> tuple[NetSpec, TrainingConfig, int]:
    if name not in BEST:
        raise ValueError(f"the best column has no mnist-{name}; it has {', '.join(BEST)}")
    net = replace(net, localization_batch_norm=True, size=(28, 28), antialias=net.shape[-1] > 28)
    net = replace(net, members=MEMBERS.get(name, 1))
    if name in NEAR:
        net = replace(net, window=28 / net.shape[-1])
    if not net.name.startswith("2x"):  # in series: the ablations' best, and on RTS here too
        net = replace(net, steps=2)
    return net, _training(BEST_EPOCHS[name], BEST_LR, "bfloat16"), REPEATS


COLUMNS = {"quick": _quick, "faithful": _faithful, "long": _long, "best": _best}


def _paper_net(net: NetSpec, name: str, base: str) -> NetSpec:
    """With 64 filters, the most the paper allows, a cnn does not reach 400k parameters."""
    budget = 400_000 if base == "fcn" else 200_000
    return replace(net, pool=POOLED.get(name, 1), size=SIZES.get(name), budget=budget)


def _training(epochs: float, lr: float, precision: str = "float32") -> TrainingConfig:
    steps, every = _length(epochs, BATCH)
    return TrainingConfig(
        steps=steps, evaluate_every=every, batch_size=BATCH, lr=lr, precision=precision
    )


def _length(epochs: float, batch_size: int) -> tuple[int, int]:
    """Steps in `epochs`, and steps between looks at the held-out digits: one epoch."""
    per_epoch = TRAINING_DIGITS // batch_size
    steps = round(epochs * per_epoch) if math.isfinite(epochs) else 0
    if steps < 1:
        raise ValueError(f"epochs must be at least one step, got {epochs}")
    return steps, min(per_epoch, steps)
