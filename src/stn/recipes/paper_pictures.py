"""The paper's house numbers and birds (Jaderberg et al. 2015, sections 4.2 and 4.3), and stand-ins.

SVHN and CUB-200-2011 cannot be fetched by a program: `stn data svhn --from DIR` and `stn data cub
--from DIR` unpack archives that you bring. Stand-ins are made, in the same layout: `stn data
street-numbers` and `stn data creatures`. Numbers on stand-ins say nothing about the originals.
"""

from dataclasses import replace

from ..data import read_cub
from ..models import PartsSpec, SvhnSpec
from ..training import TrainingConfig
from .pictures import Pictures

SVHN_MODELS = ("cnn", "st-cnn-single", "st-cnn-multi")
CUB_MODELS = ("cnn", "2xst-cnn", "2xst-cnn-448", "4xst-cnn-448")
CREATURE_MODELS = ("cnn-40", "cnn", "2xst-cnn", "4xst-cnn")
PICTURE_MODELS = tuple(dict.fromkeys((*SVHN_MODELS, *CUB_MODELS, *CREATURE_MODELS)))
DIGITS = (*"0123456789", "")
CREATURE_PX = 80
BIRDS = 200
# Of numbers, by their side: share of the paper's filters and units, steps, and the rate of the
# localizations over that of the rest. At the full rate some seeds of st-cnn-multi learned late at
# 128 px: held-out errors from 6.6 to 9.1 %.
QUICK_NUMBERS = {64: (0.25, 2000, 1.0), 128: (0.125, 2500, 0.3)}

# Table 2, % sequence error, and Table 3, 100 - % accuracy.
PAPER = {
    "svhn-64": {"cnn": 4.0, "st-cnn-single": 3.7, "st-cnn-multi": 3.6},
    "svhn-128": {"cnn": 5.6, "st-cnn-single": 3.9, "st-cnn-multi": 3.9},
    "cub": {"cnn": 17.7, "2xst-cnn": 16.9, "2xst-cnn-448": 16.1, "4xst-cnn-448": 15.9},
}
# The paper's schedules.
SVHN_TRAINING = TrainingConfig(
    steps=400_000,
    batch_size=128,
    lr=0.01,
    localization_lr_factor=0.1,
    optimizer="sgd",
    weight_decay=5e-4,
    schedule="staircase",
    milestones=(0.2, 0.4, 0.6, 0.8),
    evaluate_every=2000,
)
CUB_TRAINING = TrainingConfig(
    steps=30_000,
    batch_size=32,
    lr=0.1,
    localization_lr_factor=1e-4,
    optimizer="sgd",
    weight_decay=1e-5,
    schedule="staircase",
    milestones=(1 / 3, 2 / 3, 5 / 6),
    evaluate_every=500,
)


def svhn_64(model: str, column: str, seed: int) -> Pictures:
    """Whole house numbers of SVHN, cropped at 64 px (Table 2).

    `stn train svhn-64 --model st-cnn-multi --column faithful`: the paper's networks and schedule,
    400,000 steps of 128, for a GPU; the paper has 3.6 % sequence error.
    """
    return _numbers("svhn-64", "svhn", "@svhn", model, column, seed)


def svhn_128(model: str, column: str, seed: int) -> Pictures:
    """Whole house numbers of SVHN in loose crops of 128 px (Table 2).

    `stn train svhn-128 --model st-cnn-multi --column faithful`, for a GPU; the paper has 3.9 %.
    """
    return _numbers("svhn-128", "svhn-loose", "@svhn", model, column, seed)


def street_numbers_64(model: str, column: str, seed: int) -> Pictures:
    """Stand-in of SVHN, made and not photographed: rendered house numbers, 64 px.

    `stn data street-numbers`, `stn train street-numbers-64 --model st-cnn-multi`: 8 minutes on one
    core (EPYC), expect 2.7 %; 4.5 % for cnn.
    """
    return _numbers("street-numbers-64", "svhn", "@street-numbers", model, column, seed)


def street_numbers_128(model: str, column: str, seed: int) -> Pictures:
    """Stand-in of SVHN, made and not photographed: rendered house numbers, loose crops of 128 px.

    `stn data street-numbers`, `stn train street-numbers-128 --model st-cnn-multi`: 13 minutes on
    one core (EPYC), expect 6 %; 9 % for cnn.
    """
    return _numbers("street-numbers-128", "svhn-loose", "@street-numbers", model, column, seed)


def cub(model: str, column: str, seed: int) -> Pictures:
    """The 200 birds of CUB-200-2011 (Table 3), by parallel transformers that find their parts.

    `stn train cub --model 4xst-cnn-448 --column faithful`: the paper's schedule, on
    EfficientNet-Lite0 in place of its Inception, for a GPU; the paper has 15.9 % error.
    """
    _check("cub", model, column, CUB_MODELS)
    side = 448 if model.endswith("448") else 224
    net = PartsSpec((3, side, side), BIRDS, "efficientnet-lite0", pretrained=True, dropout=0.7)
    if model != "cnn":
        net = replace(_windowed(net, model, 224), localization="backbone", localization_px=224)
    training = CUB_TRAINING if column == "faithful" else replace(CUB_TRAINING, steps=300, lr=0.01)
    return _birds("cub", "@cub", model, column, seed, net, training)


def creatures(model: str, column: str, seed: int) -> Pictures:
    """Stand-in of the birds, made and not photographed: the class is that of two small parts.

    `stn data creatures`, `stn train creatures --model 4xst-cnn`: 10 minutes on one core (EPYC), 3 %
    error. Windows are 40 px of pictures of 80 px, which their localization sees at 40 px. "cnn-40"
    sees no more than that, too; "cnn" sees all.
    """
    _check("creatures", model, column, CREATURE_MODELS)
    side, half = CREATURE_PX, CREATURE_PX // 2
    training = TrainingConfig(
        steps=4000,
        batch_size=64,
        lr=2e-3,
        localization_lr_factor=0.03,
        weight_decay=1e-2,
        evaluate_every=250,
        precision="bfloat16",
    )
    if model.startswith("cnn"):
        net = PartsSpec((3, half, half) if model == "cnn-40" else (3, side, side), 16)
        return _birds("creatures", "@creatures", model, column, seed, net, training)
    net = replace(
        _windowed(PartsSpec((3, side, side), 16), model, half),
        localization="backbone",
        localization_px=half,
        shared_streams=True,
    )
    made = _birds("creatures", "@creatures", model, column, seed, net, training)
    return replace(
        made,
        training=replace(made.training, steps=2500),
        backbone_training=replace(made.training, steps=1500),
    )


def _numbers(recipe: str, source: str, data: str, model: str, column: str, seed: int) -> Pictures:
    _check(recipe, model, column, SVHN_MODELS)
    side = int(recipe.split("-")[-1])
    net, training = SvhnSpec(model, (3, side, side)), SVHN_TRAINING
    if column == "quick":  # for two cores
        width, steps, rate = QUICK_NUMBERS[side]
        net = replace(net, width=width, dropout=0.0, batch_norm=True, localization_batch_norm=True)
        training = TrainingConfig(
            steps=steps,
            batch_size=64,
            lr=2e-3,
            localization_lr_factor=rate,
            precision="bfloat16",
        )
    return Pictures(
        recipe=recipe,
        model=model,
        column=column,
        paper_error_percent=PAPER.get(recipe, {}).get(model),
        source=source,
        data=data,
        names=DIGITS,
        net=net,
        training=replace(training, seed=seed),
        fit="stretch",
        workers=2,
    )


def _windowed(net: PartsSpec, model: str, side: int) -> PartsSpec:
    """Behind as many free windows, half the sides of the image, as the name begins with."""
    return replace(net, transform="attention", num=int(model[0]), scale=0.5, size=(side, side))


def _birds(
    recipe: str,
    data: str,
    model: str,
    column: str,
    seed: int,
    net: PartsSpec,
    training: TrainingConfig,
) -> Pictures:
    """For "cub", whose classes are given; for other folders in its layout with those they have."""
    made = Pictures(
        recipe=recipe,
        model=model,
        column=column,
        paper_error_percent=PAPER.get(recipe, {}).get(model),
        source="cub",
        data=data,
        names=(),
        net=net,
        training=replace(training, seed=seed),
        workers=2,
    )
    made.check_made()
    names = read_cub(made.place, net.shape[1:]).names
    if recipe == "cub" and len(names) != BIRDS:
        raise ValueError(
            f"{made.place} has {len(names)} classes, CUB-200-2011 has {BIRDS}; unpack the official "
            "archive anew by: stn data cub --from DIR"
        )
    return replace(made, names=names, net=replace(net, classes=len(names)))


def _check(recipe: str, model: str, column: str, models: tuple[str, ...]) -> None:
    columns = ("quick", "faithful") if recipe in PAPER else ("quick",)  # no paper has stand-ins
    for value, known, what in ((model, models, "model"), (column, columns, "column")):
        if value not in known:
            raise ValueError(f"{recipe} has no {what} {value!r}; it has {', '.join(known)}")
