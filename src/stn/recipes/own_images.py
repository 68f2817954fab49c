"""Your own images: a folder, and defaults that make sense for it."""

import math
import os
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..data import Augmentation, DataError, ImageSet, open_shards
from ..data.pictures import picture_size
from ..models import PartsSpec
from ..training import TrainingConfig
from .pictures import REMOTE, Pictures, folder_sets

SIDES_PX = (32, 128)
LOOKED_AT = 100  # files whose size is looked at
EPOCHS, LEAST_STEPS = 30, 300


@dataclass(frozen=True)
class ImageOptions:
    """Of `stn train --data`: how your images are seen, and by what network.

    Args:
        size: side of the square canvas, px; by default the images' median side, from 32 to 128.
        fit: pad keeps all of an image and its shape, stretch fills the canvas, crop cuts two sides.
        damaged: skip leaves out images that cannot be read, refuse stops.
        backbone: small (0.3 M weights, 0.4 M with an affine transformer), resnet18, resnet50,
            efficientnet-lite0, or MODULE:FUNCTION that returns a network of your own.
        pretrained: begin with weights from ImageNet; of efficientnet-lite0.
        transform: what the transformer may do; none for the network without one.
        num: transformers side by side, each with a window of its own.
        steps_in_series: transformers that correct each other.
        crop: side of what each transformer makes of its window, px; by default size, half of it
            where there are several.
        shared: one network looks at all windows.
        backbone_epochs: epochs in which the network first learns on whole images, without which
            several windows hardly learn; by default half of all where there are several, without
            --pretrained.
        flip: mirror training images at random; not for digits or text.
        augment: turn, scale and move training images at random.
        batch_size: images a step, over all processes.
        precision: bfloat16 halves the time of large networks, where processors compute in it.
        accumulate: parts that a batch is cut into, for want of memory.
        compile: by torch.compile.
        workers: threads that read shards ahead; processes, where files do not fit into memory.
    """

    size: int | None = None
    fit: Literal["pad", "stretch", "crop"] = "pad"
    damaged: Literal["refuse", "skip"] = "refuse"
    backbone: str = "small"
    pretrained: bool = False
    transform: Literal["none", "attention", "similarity", "affine", "projective", "tps"] = "affine"
    num: int = 1
    steps_in_series: int = 1
    crop: int | None = None
    shared: bool = False
    backbone_epochs: float | None = None
    flip: bool = False
    augment: bool = True
    batch_size: int = 32
    precision: Literal["float32", "bfloat16"] = "float32"
    accumulate: int = 1
    compile: bool = False
    workers: int = 2


def own_images(
    data: str,
    options: ImageOptions | None = None,
    seed: int = 0,
    epochs: float | None = None,
    lr: float | None = None,
) -> Pictures:
    """A classifier of your own images behind spatial transformers.

    `stn train --data DIR`, two cores (EPYC): 1,000 images of 64 px take 34 s.

    Args:
        data: a folder of class folders, a CSV file, or a shards.json, as path or address.
        options: None for the defaults.
        seed: of weights, order and augmentation. What is held out is always the same.
        epochs: times that every image is seen; by default 30, and 300 steps at least.
        lr: peak learning rate; by default 2e-3, of pretrained networks 5e-4.

    Raises:
        ValueError: options out of range, or data that is not there or cannot be used.
    """
    options = options or ImageOptions()
    _check(options, epochs)
    streamed = data.endswith(".json")
    if streamed:
        shards = open_shards(data, SIDES_PX[1] if options.size is None else options.size)
        side, names, count = shards.size[0], shards.names, shards.count("train")
    else:
        train, _, _ = folder_sets(data, (SIDES_PX[1], SIDES_PX[1]), options.fit)
        side = usual_side(train) if options.size is None else options.size
        names, count = train.names, len(train)
    crop = side // 2 if options.crop is None and options.num > 1 else options.crop
    net = PartsSpec(
        (3, side, side),
        len(names),
        options.backbone,
        options.pretrained,
        options.transform,
        options.num,
        scale=0.5 if options.transform == "attention" and options.num > 1 else None,
        size=None if crop is None else (crop, crop),
        localization="backbone" if options.num > 1 else "small",
        localization_px=min(side, SIDES_PX[1]) if options.transform != "none" else None,
        shared_streams=options.shared,
        steps=options.steps_in_series,
    )
    batch_size = min(options.batch_size, max(1, count // 2))
    per_epoch = max(1, count // batch_size)
    wanted = max(LEAST_STEPS, EPOCHS * per_epoch) if epochs is None else epochs * per_epoch
    steps = math.ceil(wanted)
    training = TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        lr=(5e-4 if options.pretrained else 2e-3) if lr is None else lr,
        localization_lr_factor=0.1,
        weight_decay=1e-2,
        evaluate_every=min(max(per_epoch, steps // 30), steps),
        seed=seed,
        precision=options.precision,
        accumulate=options.accumulate,
        compile=options.compile,
    )
    first = _backbone_steps(options, per_epoch, steps)
    return Pictures(
        recipe="images",
        model=_model_name(net),
        column="quick",
        variant=_word(data),
        source="shards" if streamed else "folder",
        data=data if data.startswith(REMOTE) else os.path.abspath(Path(data).expanduser()),
        names=names,
        net=net,
        training=training,
        backbone_training=replace(training, steps=first) if first else None,
        augmentation=Augmentation(flip=options.flip) if options.augment else None,
        fit=options.fit,
        damaged=options.damaged,
        workers=options.workers,
    )


def _check(options: ImageOptions, epochs: float | None) -> None:
    least = dict.fromkeys(("size", "num", "steps_in_series", "crop", "batch_size", "accumulate"), 1)
    for name, low in {**least, "workers": 0}.items():
        value = getattr(options, name)
        if value is not None and value < low:
            raise ValueError(f"{name} must be at least {low}, got {value}")
    if epochs is not None and not 0 < epochs < math.inf:
        raise ValueError(f"epochs must be positive and finite, got {epochs}")
    first = options.backbone_epochs
    if first is not None and not 0 <= first < math.inf:
        raise ValueError(f"backbone_epochs must be finite and not negative, got {first}")
    if options.num > 1 and options.steps_in_series > 1:
        raise ValueError(
            f"num {options.num} stand side by side, steps_in_series {options.steps_in_series} one "
            "after the other: set one of them to 1"
        )
    asked = options.num > 1 or options.steps_in_series > 1 or options.crop is not None
    if options.transform == "none" and asked:
        raise ValueError(
            "num, steps_in_series and crop are of a transformer, and transform is 'none': choose a "
            "transform or leave them out"
        )


def _backbone_steps(options: ImageOptions, per_epoch: int, steps: int) -> int:
    if options.backbone_epochs is None:
        return steps // 2 if options.num > 1 and not options.pretrained else 0
    if options.transform == "none":
        raise ValueError(
            "backbone_epochs come before those with a transformer, and transform is 'none': choose "
            "a transform or more epochs"
        )
    return math.ceil(options.backbone_epochs * per_epoch)


def usual_side(images: ImageSet) -> int:
    """The median over files of their longer side, in steps of 8 px, within `SIDES_PX`."""
    step = max(1, len(images) // LOOKED_AT)
    sides = list(_longer_sides(example.path for example in images.examples[::step]))
    median = statistics.median(sides) if sides else SIDES_PX[1]
    return int(min(max(8 * round(median / 8), SIDES_PX[0]), SIDES_PX[1]))


def _longer_sides(paths: Iterable[Path]) -> Iterable[int]:
    for path in paths:
        try:
            yield max(picture_size(path))
        except DataError:
            continue  # reading it will say what is wrong


def _model_name(net: PartsSpec) -> str:
    base = net.backbone.replace(":", ".")
    if net.transform == "none":
        return base
    many = f"{net.num}x" if net.num > 1 else ""
    series = f"-{net.steps}steps" if net.steps > 1 else ""
    return f"{many}st-{base}-{net.transform}{series}"


def _word(data: str) -> str:
    """Of a path, what may stand in the name of a folder."""
    path = Path(data)
    name = path.parent.name if path.name == "shards.json" else path.resolve().stem
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-") or "images"
