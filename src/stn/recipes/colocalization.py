"""Co-localisation without labels (appendix A.2): find what a hundred images have in common."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn

from .._checks import check_choice
from ..data import (
    FrozenSet,
    Splits,
    colocalization_set,
    digit_boxes,
    iou,
    joined,
    load_mnist,
    split_mnist,
    window_boxes,
)
from ..evaluation import in_chunks
from ..models import TENSORS, Colocalizer, ColocalizerSpec, Network, count_parameters, read_tensors
from ..nn import SpatialTransformer, pull_back
from ..training import Processes, TrainingConfig, train, write_json, write_tensors
from ..training.loop import Progress
from ..transforms import Attention, Transform
from ..warp import warp
from .experiment import FROZEN_SEED, Experiment, Measured, Shown
from .search import Search

CANVAS = (84, 84)
CROP_PX = 28
FOUND_IOU = 0.5
PAPER_ERROR = {False: 0.0, True: 14.2}  # with clutter, the mean of figures read off a plot
BATCH = 100
COLOCALIZER = "st-attention"
GOAL_WEIGHT = 10.0  # of the way to the places found by search
DRAWS = 1000  # of other images, beside those of each seed
FRAMES = 12  # of theta along the training, for pictures


@dataclass(frozen=True, kw_only=True)
class Colocalization(Experiment):
    """Ten digit classes, one transformer each, trained on the class's own hundred images.

    Args:
        cluttered: sixteen crops of other digits in every image.
        seed: of the images, of the weights and of the random patches: what was chosen with one
            seed's images in view is told by another's.
        net: ten windows and the digit network that reads them, whose activations e compare crops.
        encoder_training: of the digit network, on the undistorted training digits.
        steps, lr: of Adam, for each class; half a cosine to 0.
        start_scale: of the window, over the image.
        still: share of the steps in which the scale is not learned. A window that is free to
            shrink before it has found anything shrinks to a blank spot, where all images agree.
        still_scale: of the window in the second half of that share, and where its learning starts;
            None for `start_scale`. A wide window finds the digit, one of its size tells it from
            clutter.
        margin: of the hinge; 3 is so wide that it hardly ever cuts.
        patches: random ones to each crop.
        search_every: steps between two searches for what the images have in common, while the
            scale stays; 0 for none, the gradient alone, as in the paper.
        pull: weight of `stn.nn.pull_back`; outside the image all windows agree.
        starts: trainings of each transformer from other random weights. The one with the lowest
            loss is kept, which takes no label: from some starts the windows find nothing.

    Reference:
        Jaderberg et al., Spatial Transformer Networks, 2015, appendix A.2.
    """

    cluttered: bool
    seed: int
    net: ColocalizerSpec
    encoder_training: TrainingConfig
    steps: int
    lr: float
    start_scale: float = 0.5
    still: float = 0.3
    still_scale: float | None = None
    margin: float = 3.0
    patches: int = 1
    search_every: int = 0
    pull: float = 0.0
    starts: int = 1

    @property
    def run_seed(self) -> int:
        return self.seed

    @property
    def scales(self) -> tuple[float, float]:
        """Of the window in the two halves of `still`."""
        return self.start_scale, self.still_scale or self.start_scale

    def load(self) -> Splits:
        return split_mnist(load_mnist())

    def run(
        self, folder: Path, data: Splits, processes: Processes, progress: Progress | None = None
    ) -> dict:
        if processes.count > 1:
            raise ValueError(f"{self.recipe} is trained by one process, got {processes.count}")
        device = processes.device
        reader, encoder = self.trained_reader(folder, data, processes)
        chosen = []
        for digit in range(10):
            shown = self.images(data, digit)
            tried: list[dict] = []
            searches: dict[float, Search] = {}
            for start in range(self.starts):
                part = folder / f"{part_name(digit, start)}.json"
                if not part.exists():
                    if self.search_every and not searches:
                        images = shown.images.to(device)
                        for scale in self.scales:
                            searches[scale] = Search(encoder, images, scale, CROP_PX)
                    self.fit(encoder, shown, searches, digit, start, part, device)
                tried.append(json.loads(part.read_text()))
                if progress is not None:
                    last = f"last: {tried[-1]['correct_percent']:.0f} % found"
                    progress(digit * self.starts + start + 1, 10 * self.starts, last)
            best = min(range(self.starts), key=lambda start: tried[start]["loss"])
            chosen.append({"start": best, "tried": tried, **tried[best]})
        shares = [found["correct_percent"] for found in chosen]
        names = [part_name(digit, found["start"]) for digit, found in enumerate(chosen)]
        model = Colocalizer([self.read_window(folder / name) for name in names], reader).to(device)
        write_tensors(folder / TENSORS, model.state_dict())
        return {
            "test_error_percent": 100 - mean(shares),
            "correct_percent": shares,
            "mean_iou": [found["mean_iou"] for found in chosen],
            "unseen_correct_percent": self.unseen(model.eval(), data, "test", 0),
            "chosen_start": [found["start"] for found in chosen],
            "tried": [found["tried"] for found in chosen],
            "parameters": count_parameters(self.net.window()),
            "steps": self.steps,
            "samples_seen": self.steps * BATCH,
        }

    def images(self, data: Splits, digit: int) -> FrozenSet:
        """The hundred that a class's window is trained on."""
        seed = FROZEN_SEED + DRAWS * self.seed
        return colocalization_set(*data.train, digit, seed, self.cluttered)

    def evaluate(self, model: nn.Module, data: Splits, split: str, repeat: int) -> Measured:
        """Of a hundred other images of each class, those whose digit its window does not find."""
        assert isinstance(model, Colocalizer)
        shares = self.unseen(model, data, split, repeat)
        return Measured(100 - mean(shares), 100 * len(shares))

    def shown(self, data: Splits) -> Shown:
        found = joined(self.others(data, "test", digit, 0, 10) for digit in range(10))
        return Shown(found.images, found.labels, tuple(map(str, range(10))))

    def others(
        self, data: Splits, split: str, digit: int, repeat: int, count: int = 100
    ) -> FrozenSet:
        """Images of a class that no window was trained on; crops are of training digits."""
        images, labels = data.test if split == "test" else data.held_out
        seed, pool = FROZEN_SEED + 1 + repeat, data.train.images
        return colocalization_set(images, labels, digit, seed, self.cluttered, count, pool)

    @torch.no_grad()
    def unseen(self, model: Colocalizer, data: Splits, split: str, repeat: int) -> list[float]:
        """Of each class's other images, % whose digit its window finds."""
        layer, device, shares = model.transformer, next(model.parameters()).device, []
        for digit in range(10):
            shown = self.others(data, split, digit, repeat)
            theta = layer.theta(shown.images.to(device))[:, digit]
            shares.append(found_percent(overlaps(layer.transform, theta, shown)))
        return shares

    def trained_reader(
        self, folder: Path, splits: Splits, processes: Processes
    ) -> tuple[Network, "Encoder"]:
        """The digit network, trained on undistorted digits; continued if it was begun."""
        device = processes.device
        torch.manual_seed(self.seed)
        network = self.net.reader.build().to(device)
        assert isinstance(network, Network)
        images, labels = (tensor.to(device) for tensor in splits.train)
        shown, named = (tensor.to(device) for tensor in splits.held_out)
        size = self.encoder_training.batch_size

        def batches(start: int, part: int, parts: int) -> Iterator[tuple[Tensor, Tensor]]:
            for step in itertools.count(start):
                draw = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
                rows = torch.randint(len(images), (size,), generator=draw).to(device)
                rows = rows.chunk(parts)[part]
                yield as_input(images[rows]), labels[rows]

        place = folder / "encoder"
        place.mkdir(parents=True, exist_ok=True)
        chunks = in_chunks(as_input(shown), named)
        train(network, batches, chunks, self.encoder_training, place, processes)
        return network.eval(), Encoder(network, as_input(images[:1000])).eval()

    def read_window(self, part: Path) -> SpatialTransformer:
        """A trained window, of the files of `part`."""
        tensors, window = read_tensors(part.with_suffix(".safetensors")), self.net.window()
        mine = {name for name in tensors if name.startswith("window.")}
        window.load_state_dict({name.removeprefix("window."): tensors[name] for name in mine})
        return window

    def fit(
        self,
        encoder: "Encoder",
        shown: FrozenSet,
        searches: dict[float, Search],
        digit: int,
        start: int,
        part: Path,
        device: torch.device,
    ) -> None:
        """Train a transformer on images (N, 1, H, W) without labels; writes `part` and its tensors.

        The loss is the mean over all pairs n, m of max(0, |e_n - e_m|^2 - |e_n - e(random patch of
        n)|^2 + margin). No gradient flows to e_m: it would draw twice as hard to what is alike, the
        blank, as patches push off it.
        """
        seed = (self.seed * 10 + digit) * 100 + start
        torch.manual_seed(seed)
        draw = torch.Generator().manual_seed(seed)
        layer = self.net.window(self.scales[-1]).to(device)
        images = shown.images.to(device)
        optimizer = torch.optim.Adam(layer.parameters(), self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        others = ~torch.eye(len(images), dtype=torch.bool, device=device)
        goal = images.new_zeros(len(images), 2)
        path, losses = [], []
        for step in range(self.steps):
            theta = layer.theta(images)
            half = int(2 * step / (self.still * self.steps)) if self.still else 2
            scale = self.scales[half] if half < 2 else None
            if scale is not None:
                stays = torch.full_like(theta[:, :1], scale).log()
                theta = torch.cat([stays, theta[:, 1:]], -1)
            if step % max(1, self.steps // FRAMES) == 0:
                path.append(theta.detach())
            mine = encoder(layer.warp(images, theta))
            near = _squared_distances(mine, mine.detach())
            patches = [encoder(random_patches(images, draw)) for _ in range(self.patches)]
            far = torch.stack([(mine - patch).square().sum(-1) for patch in patches]).mean(0)
            loss = (near - far.unsqueeze(1) + self.margin).relu()[others].mean()
            losses.append(loss.detach())
            if self.pull:
                loss = loss + self.pull * pull_back(layer.transform, theta, CROP_PX).mean()
            if scale in searches:
                if step % self.search_every == 0:
                    goal = searches[scale].common(mine)
                loss = loss + GOAL_WEIGHT * (theta[:, 1:] - goal).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            theta = layer.eval().theta(images)
        trained = {f"window.{name}": value for name, value in layer.state_dict().items()}
        tensors = {"theta": theta, "path": torch.stack(path), **trained}
        write_tensors(part.with_suffix(".safetensors"), tensors)
        overlap = overlaps(layer.transform, theta, shown)
        found = {
            "loss": torch.stack(losses[-max(1, self.steps // 10) :]).mean().item(),
            "correct_percent": found_percent(overlap),
            "mean_iou": overlap.mean().item(),
        }
        write_json(part, found)


def part_name(digit: int, start: int) -> str:
    """The files of one training in the run's folder: what it found, and theta along the way."""
    return f"digit-{digit}-start-{start}"


def overlaps(transform: Transform, theta: Tensor, shown: FrozenSet) -> Tensor:
    """Intersection over union of windows and their digits' boxes, (N,)."""
    windows = window_boxes(transform, theta, CANVAS)
    return iou(windows, digit_boxes(shown.pose, CANVAS).to(windows))


def found_percent(overlap: Tensor) -> float:
    return 100 * (overlap > FOUND_IOU).double().mean().item()


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_n - b_m|^2 of rows, (N, M), by one product."""
    lengths = a.square().sum(-1, keepdim=True) + b.square().sum(-1)
    return torch.addmm(lengths, a, b.mT, alpha=-2)


class Encoder(nn.Module):
    """e: the activations of a digit CNN after both poolings and its logits, in a row.

    They stand as they are: fine detail, of which the first pooling has the most, weighs most, and
    that is what shows a window which is too wide. The row is divided by its mean distance between
    two digits, so that the margin has a meaning. The weights are fixed.
    """

    scale: Tensor

    def __init__(self, network: Network, digits: Tensor):
        super().__init__()
        self.layers = network.classifier.requires_grad_(False).eval()
        self.register_buffer("scale", torch.ones(()))
        with torch.no_grad():
            found = self(digits)
            self.scale = (found - found.roll(1, 0)).norm(dim=-1).mean()

    def forward(self, crops: Tensor) -> Tensor:
        found = []
        for layer in self.layers.children():
            crops = layer(crops)
            if isinstance(layer, nn.MaxPool2d):
                found.append(crops.flatten(1))
        return torch.cat([*found, crops], -1) / self.scale


def random_patches(images: Tensor, draw: torch.Generator) -> Tensor:
    """A patch of 28 x 28 px of each image, anywhere inside."""
    scale = CROP_PX / CANVAS[0]
    place = (2 * torch.rand(len(images), 2, generator=draw) - 1) * (1 - scale)
    log_scale = torch.full((len(images), 1), scale).log()
    theta = torch.cat([log_scale, place], -1).to(images.device)
    return warp(images, Attention(), theta, (CROP_PX, CROP_PX))


def as_input(digits: Tensor) -> Tensor:
    """uint8 (N, 28, 28) as float (N, 1, 28, 28) in [0, 1]."""
    return digits.unsqueeze(1).float() / 255


def mnist_colocalization(model: str, column: str, seed: int) -> Colocalization:
    """Find the digit in 84 x 84 images that share a class, without any label.

    `stn train mnist-colocalization --model st-attention --column best`: 15 minutes on one core
    (EPYC), expect 0 to 0.4 %. The error is the share of the 1,000 images whose window does not meet
    the digit's box by half.
    """
    return _colocalization(model, column, seed, cluttered=False)


def mnist_colocalization_cluttered(model: str, column: str, seed: int) -> Colocalization:
    """Find the digit that 84 x 84 images share, without any label, among 6 x 6 crops of others.

    `stn train mnist-colocalization-cluttered --model st-attention --column best`: 18 minutes on one
    core (EPYC), expect less than 1 %; by the gradient alone, as in the faithful column, 39 %.
    """
    return _colocalization(model, column, seed, cluttered=True)


def _colocalization(model: str, column: str, seed: int, cluttered: bool) -> Colocalization:
    if model != COLOCALIZER:
        raise ValueError(f"co-localization has one model, {COLOCALIZER}, got {model!r}")
    check_choice(column, ("quick", "faithful", "best"), "column")
    quick, best = column == "quick", column == "best"
    return Colocalization(
        recipe="mnist-colocalization" + "-cluttered" * cluttered,
        model=model,
        column=column,
        paper_error_percent=PAPER_ERROR[cluttered],
        cluttered=cluttered,
        seed=seed,
        net=ColocalizerSpec(),
        encoder_training=TrainingConfig(
            steps=430 if quick else 1290, lr=2e-3, evaluate_every=215, seed=seed
        ),
        steps=300 if quick or best else 600,
        lr=1e-2,
        still=0.6 if best else 0.3,
        still_scale=CROP_PX / CANVAS[0] if best else None,
        search_every=15 if best else 0,
        pull=10.0 if best else 0.0,
        starts=2 if best else 1,
    )
