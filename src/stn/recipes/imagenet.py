"""ResNet-50 on ImageNet, plain and behind spatial transformers: ready to run, not run yet."""

import math
from dataclasses import replace

from .._checks import check_choice
from ..data import Augmentation, DataError, open_shards
from ..models import PartsSpec
from ..training import TrainingConfig
from .pictures import KNOWN, Pictures

IMAGENET_MODELS = ("resnet50", "st-resnet50", "cascade-resnet50")
INDEX = "imagenet/shards.json"  # in the data folder
SIDE_PX, QUICK_PX, LOCALIZATION_PX = 224, 64, 128
EPOCHS, WARMUP_EPOCHS, BATCH, LR_OF_256 = 90, 5, 1024, 0.1


def imagenet(model: str, column: str, seed: int) -> Pictures:
    """ResNet-50 on ImageNet, or any shards, behind one affine transformer, two in series, or none.

    `stn data shards --from DIR --to $STN_DATA/imagenet`, once; then on a machine with eight GPUs
    `torchrun --nproc-per-node 8 -m stn.cli train imagenet --model st-resnet50 --column faithful`.

    Faithful is the schedule usual for ResNet-50: 90 epochs in batches of 1,024 over all processes,
    SGD with momentum, 0.1 for every 256 images of a batch, five epochs of warm-up and half a cosine
    down, bfloat16, with the localizations at a tenth of the rate. Estimated, not measured: four
    hours on eight A100 for the plain network, if 64 cores or more decode its images. With
    ImageNet's 1,000 classes such schedules usually end at some 24 % error; nobody has run this one.

    Quick is 1,500 steps at 64 px, localizations at the full rate: 16 minutes on one core (EPYC),
    9.7 % error on the pictures of examples/imagenet_in_small.py.

    Raises:
        DataError: the shards are not there.
    """
    check_choice(model, IMAGENET_MODELS, "model")
    check_choice(column, ("quick", "faithful"), "column")
    made = Pictures(
        recipe="imagenet",
        model=model,
        column=column,
        source="shards",
        data=KNOWN + INDEX,
        names=(),
        net=network(model, SIDE_PX if column == "faithful" else QUICK_PX, 2),
        training=TrainingConfig(
            steps=1500,
            batch_size=32,
            lr=2e-3,
            evaluate_every=250,
            precision="bfloat16",
            seed=seed,
        ),
        augmentation=Augmentation(rotation_deg=0, scale=(1.0, 1.5), shift=0.1, flip=True),
        fit="crop",
        damaged="skip",
        workers=2,
    )
    try:
        shards = open_shards(made.place, made.net.shape[1:])
    except DataError as error:
        raise DataError(
            f"{error}; write the shards: stn data shards --from DIR --to "
            f"{made.place.removesuffix('/shards.json')}"
        ) from None
    made = replace(made, names=shards.names, net=replace(made.net, classes=len(shards.names)))
    if column != "faithful":
        return made
    per_epoch = math.ceil(shards.count("train") / BATCH)
    training = TrainingConfig(
        steps=EPOCHS * per_epoch,
        batch_size=BATCH,
        lr=LR_OF_256 * BATCH / 256,
        localization_lr_factor=0.1,
        optimizer="sgd",
        momentum=0.9,
        weight_decay=1e-4,
        warmup=WARMUP_EPOCHS / EPOCHS,
        evaluate_every=per_epoch,
        precision="bfloat16",
        seed=seed,
    )
    return replace(made, training=training, workers=16)


def network(model: str, side_px: int, classes: int) -> PartsSpec:
    """One of `IMAGENET_MODELS` for images of side_px x side_px.

    The transformers' localization is four convolutions on the image at 128 px or less; what is
    passed on has the image's size, and is not antialiased: plain warps have kernels on GPUs.
    """
    plain = PartsSpec((3, side_px, side_px), classes, "resnet50")
    if model == "resnet50":
        return plain
    return replace(
        plain,
        transform="affine",
        steps=2 if model.startswith("cascade") else 1,
        localization_px=min(side_px, LOCALIZATION_PX),
        antialias=False,
    )
