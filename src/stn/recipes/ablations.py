"""What matters in a spatial transformer net: one choice changed at a time."""

from dataclasses import replace

from .digits import Digits, mnist_rts

CNN = {"name": "st-cnn-affine", "budget": 200_000}
CNN_TRAINING = {"lr": 2e-3, "precision": "bfloat16"}
# Variant: (what it says in the table, changes of the network, changes of the training).
ABLATIONS: dict[str, tuple[str, dict, dict]] = {
    "plain": ("identity start, zeros outside, localization at the full rate", {}, {}),
    "random-start": ("theta starts from a random layer", {"random_start": True}, {}),
    "slow": ("localization learns at 0.1 of the rate", {}, {"localization_lr_factor": 0.1}),
    "slower": ("at 0.01 of the rate", {}, {"localization_lr_factor": 0.01}),
    "normalized": ("images normalised first: zeros are no background", {"normalize": True}, {}),
    "border": (
        "normalised, the border continued outside",
        {"normalize": True, "padding_mode": "border"},
        {},
    ),
    "half-size": (
        "samples 21 x 21 px, no average pooling after it",
        {"size": (21, 21), "pool": 1},
        {},
    ),
    "antialias": (
        "the same, antialiased",
        {"size": (21, 21), "pool": 1, "antialias": True},
        {},
    ),
    "bicubic": ("bicubic kernel", {"mode": "bicubic"}, {}),
    "norm": ("batch norm in the localization", {"localization_batch_norm": True}, {}),
    "wide": ("three times the units in the localization", {"localization_width": 3}, {}),
    "cascade": ("two affine transformers in series", {"steps": 2}, {}),
    "cascade-3": ("three in series", {"steps": 3}, {}),
    "theta-forward": ("theta forward to the classifier", {"theta_forward": True}, {}),
    "attention": ("scale and shift only", {"name": "st-fcn-attention"}, {}),
    "similarity": ("similarity", {"name": "st-fcn-similarity"}, {}),
    "similarity-norm": (
        "similarity, batch norm in the localization",
        {"name": "st-fcn-similarity", "localization_batch_norm": True},
        {},
    ),
    "similarity-cascade": (
        "the same, two in series",
        {"name": "st-fcn-similarity", "localization_batch_norm": True, "steps": 2},
        {},
    ),
    "similarity-wide": (
        "the same, three times the units in the localization",
        {
            "name": "st-fcn-similarity",
            "localization_batch_norm": True,
            "steps": 2,
            "localization_width": 3,
        },
        {},
    ),
    "projective": ("projective", {"name": "st-fcn-projective"}, {}),
    "tps": ("thin plate spline", {"name": "st-fcn-tps"}, {}),
    "basis": ("a learned basis of four fields", {"name": "st-fcn-basis"}, {}),
    "none": ("no transformer", {"name": "fcn"}, {}),
    "cnn": ("cnn in place of fcn, an affine transformer on the image", CNN, CNN_TRAINING),
    "cnn-stem": (
        "the same, behind the first convolution, on its feature maps",
        CNN | {"stem": 2, "pool": 1},
        CNN_TRAINING,
    ),
    "cnn-none": ("the same without a transformer", CNN | {"name": "cnn", "pool": 1}, CNN_TRAINING),
}


def ablation(variant: str, seed: int) -> Digits:
    """A variant of the quick st-fcn-affine net on RTS, in a column of its own.

    `stn reproduce ablations`, one core (EPYC): about a minute each; expect 1.9 % for plain,
    12.3 % without a transformer.
    """
    _, net, training = ABLATIONS[variant]
    plain = mnist_rts("st-fcn-affine", "quick", seed)
    return replace(
        plain,
        model=net.get("name", plain.model),
        variant=variant,
        column="ablation",
        paper_error_percent=None,
        net=replace(plain.net, **net),
        training=replace(plain.training, **training),
    )
