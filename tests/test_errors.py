"""Errors are one sentence: what was got, what was expected, the way out."""

import pytest
import torch

import stn

X2, X3, T2 = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5, 6), torch.zeros(2, 6)
G2, M2 = torch.zeros(2, 4, 5, 2), torch.eye(2, 3).expand(2, -1, -1)
ERRORS = {
    "uint8": (TypeError, r"input .*torch.uint8: divide by 255", lambda: _warp(X2.byte())),
    "complex": (
        TypeError,
        r"input must be floating point, got torch.complex64",
        lambda: _warp(X2 + 0j),
    ),
    "int theta": (TypeError, r"theta .*torch.int64: use .float", lambda: _warp(theta=T2.long())),
    "int grid": (TypeError, r"grid .*torch.int64", lambda: stn.grid_sample(X2, G2.long())),
    "complex flow": (TypeError, r"flow .*torch.complex64", lambda: stn.warp_flow(X2, G2 + 0j)),
    "bool matrix": (TypeError, r"matrix .*torch.bool", lambda: stn.warp_matrix(X2, M2.bool())),
    "list": (TypeError, "input must be a torch.Tensor, got list", lambda: _warp([[1.0]])),
    "list matrix": (
        TypeError,
        "input must be a torch.Tensor, got list",
        lambda: stn.warp_matrix([[1.0]], M2),
    ),
    "list flow": (
        TypeError,
        "input must be a torch.Tensor, got list",
        lambda: stn.warp_flow([[1.0]], G2),
    ),
    "grid is a list": (
        TypeError,
        "grid must be a torch.Tensor, got list",
        lambda: stn.grid_sample(X2, [0.0]),
    ),
    "2-D transform of a volume": (
        ValueError,
        r"Affine\(dim=2\) warps images of shape \(B, C, H, W\), got \(2, 3, 4, 5, 6\)",
        lambda: _warp(X3),
    ),
    "no channel": (ValueError, r"\(B, C, H, W\), got \(2, 4, 5\)", lambda: _warp(X2[:, 0])),
    "theta width": (
        ValueError,
        r"theta of shape \(B, 6\), got \(2, 5\); the layer .* must output 6 values",
        lambda: _warp(theta=T2[:, :5]),
    ),
    "theta of one image": (ValueError, r"\(B, 6\), got \(6,\)", lambda: _warp(theta=T2[0])),
    "theta batch": (
        ValueError,
        r"must agree or be 1, got 2 and 3; for K warps .* theta \(B, K, P\)",
        lambda: _warp(theta=torch.zeros(3, 6)),
    ),
    "mode": (
        ValueError,
        "mode must be one of 'nearest', .*got 'linear'",
        lambda: _warp(mode="linear"),
    ),
    "padding": (
        ValueError,
        "padding_mode must be one of 'zeros', .*got 'same'",
        lambda: _warp(padding_mode="same"),
    ),
    "backend": (
        ValueError,
        "backend must be one of 'native', 'triton', .*got 'cuda'",
        lambda: _warp(backend="cuda"),
    ),
    "fill inf": (ValueError, "fill must be finite, got inf", lambda: _warp(fill=float("inf"))),
    "fill shape": (
        ValueError,
        r"fill must be a float or a tensor of shape \(C,\) = \(3,\), got \(2,\)",
        lambda: _warp(fill=torch.zeros(2)),
    ),
    "size": (
        ValueError,
        r"size must be 2 positive integers \(H, W\), got \(3, 4, 5\)",
        lambda: _warp(size=(3, 4, 5)),
    ),
    "size zero": (ValueError, r"positive integers .*got \(0, 4\)", lambda: _warp(size=(0, 4))),
    "size of a volume": (
        ValueError,
        r"3 positive integers \(D, H, W\), got \(3, 4\)",
        lambda: stn.warp(X3, stn.Rigid(3), T2, (3, 4)),
    ),
    "no pixel": (ValueError, "at least one pixel along each axis", lambda: _warp(X2[..., :0])),
    "grid axes": (
        ValueError,
        r"grid must have shape \(B, \*T, 2\).*or \(B, K, \*T, 2\), got \(2, 5, 2\)",
        lambda: stn.grid_sample(X2, G2[:, 0]),
    ),
    "channel-first grid": (
        ValueError,
        r"grid must have shape .*got \(2, 2, 4, 5\)",
        lambda: stn.grid_sample(X2, G2.movedim(-1, 1)),
    ),
    "grid batch": (
        ValueError,
        "must agree or be 1, got 2 and 3",
        lambda: stn.grid_sample(X2, G2[:1].repeat(3, 1, 1, 1)),
    ),
    "matrix shape": (
        ValueError,
        r"matrix must be \(B, 2, 3\) or \(B, 3, 3\), got \(2, 2, 2\)",
        lambda: stn.warp_matrix(X2, M2[..., :2]),
    ),
    "channel-first flow": (
        ValueError,
        r"got \(2, 2, 4, 5\); this one looks channel-first: use flow.movedim\(1, -1\)",
        lambda: stn.warp_flow(X2, G2.movedim(-1, 1)),
    ),
    "flow axes": (
        ValueError,
        r"flow must have shape \(B, \*T, 2\)",
        lambda: stn.warp_flow(X2, G2[0]),
    ),
    "unit": (
        ValueError,
        "unit must be one of 'px', 'normalized', got 'pixels'",
        lambda: stn.warp_flow(X2, G2, unit="pixels"),
    ),
    "dim": (ValueError, "dim must be 2 or 3, got 4", lambda: stn.Affine(4)),
    "scale": (ValueError, "scale must be positive, got 0", lambda: stn.Attention(scale=0)),
    "aspect": (ValueError, "aspect must be 2 positive", lambda: stn.Rigid(aspect=(1, 2, 3))),
    "lattice": (
        ValueError,
        r"at least 2 nodes each, got \(1, 4\)",
        lambda: stn.ThinPlateSpline((1, 4)),
    ),
    "lattice axes": (ValueError, r"got \(4,\)", lambda: stn.ThinPlateSpline((4,))),
    "regularization": (
        ValueError,
        "must not be negative, got -1",
        lambda: stn.ThinPlateSpline((4, 4), regularization=-1),
    ),
    "empty compose": (ValueError, "at least one transform", lambda: stn.Compose()),
    "mixed compose": (
        ValueError,
        r"transforms of one dim, got \[2, 3\]",
        lambda: stn.Compose(stn.Affine(2), stn.Affine(3)),
    ),
    "matrix of a list of pixels": (
        ValueError,
        r"a matrix warps images of shape \(B, C, H, W\) or \(B, C, D, H, W\), got \(2, 3, 4\)",
        lambda: stn.warp_matrix(X2[..., 0], M2),
    ),
    "points": (
        ValueError,
        r"points must have shape \(N, 2\) or \(B, N, 2\) with \(x, y\).*got \(7, 3\)",
        lambda: stn.Affine().map_points(T2, torch.rand(7, 3)),
    ),
    "points batch": (
        ValueError,
        "theta and points must agree in their batch, got 2 and 3",
        lambda: stn.Affine().jacobian(T2, torch.rand(3, 7, 2)),
    ),
    "theta is a matrix": (
        ValueError,
        r"got \(2, 2, 3\); a matrix goes to stn.warp_matrix",
        lambda: _warp(theta=M2),
    ),
    "class": (
        TypeError,
        r"such as stn.Affine\(\), got <class",
        lambda: stn.SpatialTransformer(LOCALIZATION, stn.Affine),
    ),
    "swapped": (TypeError, "got 'Tensor'", lambda: stn.warp(X2, T2, stn.Affine())),
    "diagnose": (
        TypeError,
        "got 'SpatialTransformer'",
        lambda: stn.nn.diagnose(_layer(), T2, 4),
    ),
    "lattice is a number": (ValueError, r"got \(4,\)", lambda: stn.ThinPlateSpline(4)),
    "layer's padding": (ValueError, "got 'zero'", lambda: _layer(padding_mode="zero")),
    "layer's images": (TypeError, "divide by 255", lambda: _layer()(X2.byte())),
    "one image": (ValueError, r"\(B, C, H, W\), got \(3, 4, 5\)", lambda: _layer()(X2[0])),
    "channels last": (
        ValueError,
        r"\(B, 3, 4, 5\), got \(2, 4, 5, 3\); these have their channels last: use .movedim",
        lambda: _layer()(X2.movedim(1, -1)),
    ),
    "one image, dense": (
        ValueError,
        r"for one image use .unsqueeze\(0\)",
        lambda: LOCALIZATION(X2[0]),
    ),
    "features": (
        ValueError,
        r"must return \(2, 7\) features .*got \(2, 60\); num_features says",
        lambda: stn.SpatialTransformer(torch.nn.Flatten(), stn.Affine(), num_features=7)(X2),
    ),
    "not flat": (
        ValueError,
        r"got \(2, 3, 4, 5\); end it with nn.Flatten",
        lambda: stn.Cascade(torch.nn.Identity(), stn.Affine(), 2, num_features=7)(X2),
    ),
    "parameters": (
        TypeError,
        "got generator; pass the model",
        lambda: stn.param_groups(_layer().parameters(), 1, 1),
    ),
}
ERRORS |= {
    "size 5.0": (
        ValueError,
        r"size must be 2 positive integers .* got 5\.0",
        lambda: _warp(size=5.0),
    ),
    "size nan": (ValueError, r"got \(nan, 3\)", lambda: _warp(size=(float("nan"), 3))),
    "velocity of 4": (ValueError, r"lattice must be .* got \(4,\)", lambda: stn.Velocity(4)),
    "fill list": (TypeError, r"fill must be a float .* got \[1\.0\]", lambda: _warp(fill=[1.0])),
    "fill nan": (
        ValueError,
        "must be finite",
        lambda: _warp(fill=torch.tensor([1.0, torch.nan, 0])),
    ),
    "list of transforms": (TypeError, "got 'list'", lambda: stn.Compose([stn.Affine()])),
    "matrix of numbers": (TypeError, "m must be", lambda: stn.Affine().from_matrix([[1.0]])),
    "no size": (
        ValueError,
        "not in the family",
        lambda: stn.Attention().from_matrix(torch.zeros(1, 2, 3)),
    ),
    "none of them": (
        ValueError,
        "num must be a positive integer, got 0",
        lambda: stn.ParallelTransformers(LOCALIZATION, stn.Affine(), 0),
    ),
    "tile": (ValueError, r"shape \(6,\), got 'tile'", lambda: _layer(initial_theta="tile")),
    "points on a line": (
        ValueError,
        r"these 6 points do not determine Projective",
        lambda: stn.Projective().fit(LINE, LINE),
    ),
    "behind the horizon": (
        ValueError,
        r"these 4 points do not determine Projective",
        lambda: stn.Projective().fit(SQUARE, SQUARE[[0, 3, 2, 1]].roll(1, 0)[[0, 2, 1, 3]]),
    ),
}
LINE = torch.linspace(-1, 1, 6)[:, None].expand(6, 2)
SQUARE = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
LOCALIZATION = stn.nn.DenseLocalization((3, 4, 5))


def _layer(**options):
    return stn.SpatialTransformer(LOCALIZATION, stn.Affine(), **options)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        lambda **options: _warp(theta=T2.to("meta"), **options),
        lambda **options: stn.warp_matrix(X2, M2.to("meta"), **options),
        lambda **options: stn.grid_sample(X2, G2.to("meta"), **options),
        lambda **options: stn.warp_flow(X2, G2.to("meta"), **options),
    ],
    ids=["theta", "matrix", "grid", "flow"],
)
def test_tensors_of_two_devices_are_told_not_read(call, antialias):
    with pytest.raises(ValueError, match=r"input is on cpu and its theta, .* on meta: move one"):
        call(antialias=antialias)


def _warp(input=X2, theta=T2, **options):
    return stn.warp(input, stn.Affine(), theta, **options)


@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_what_was_got_and_the_way_out(case):
    kind, message, call = ERRORS[case]
    with pytest.raises(kind, match=message):
        call()
