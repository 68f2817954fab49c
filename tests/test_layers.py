"""Transformer layers: start, options, broadcasting, errors, and what compilers make of them."""

import pytest
import torch
from torch import nn

import stn
from stn.nn import ConvLocalization, DenseLocalization

TRANSFORMS = [
    stn.Translation(),
    stn.Attention(),
    stn.Rigid(),
    stn.Similarity(),
    stn.Affine(),
    stn.Projective(),
    stn.ThinPlateSpline((4, 4)),
    stn.PiecewiseAffine((3, 4)),
    stn.FreeForm((3, 4)),
    stn.Displacement((3, 4)),
    stn.Compose(stn.Similarity(), stn.ThinPlateSpline((3, 3))),
    stn.Velocity((3, 4), steps=1),
    stn.CPAB((2, 2), steps=1),
    stn.LearnedBasis(2, (3, 4)),
]
WITHOUT_TILES = (stn.Compose, stn.Velocity, stn.CPAB, stn.LearnedBasis)


def layer(transform, size=None, **options):
    localization = DenseLocalization((1, 12, 12), width=8)
    return stn.SpatialTransformer(localization, transform, size, **options)


def stirred(module: nn.Module) -> nn.Module:
    """The same module with regression weights that are no longer zero."""
    torch.manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.Linear) and not part.weight.any():
            nn.init.normal_(part.weight, std=0.02)
    return module


@pytest.fixture
def x():
    return torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
class TestEveryTransform:
    def test_starts_at_the_identity(self, transform, x):
        torch.testing.assert_close(layer(transform)(x), x, atol=1e-5, rtol=0)

    def test_forward_is_warp_by_theta(self, transform, x):
        made = stirred(layer(transform, (5, 7), padding_mode="border"))
        theta = made.theta(x)
        expected = stn.warp(x, transform, theta, (5, 7), padding_mode="border")
        torch.testing.assert_close(made(x), expected)
        assert theta.abs().max() > 1e-3

    def test_inspect(self, transform, x):
        made = stirred(layer(transform, (5, 7)))
        result = made.inspect(x)
        torch.testing.assert_close(result.output, made(x))
        assert result.grid.shape == (3, 5, 7, 2)
        torch.testing.assert_close(
            stn.grid_sample(x, result.grid), result.output, atol=1e-5, rtol=0
        )

    def test_gradient_reaches_the_localization(self, transform, x):
        made = stirred(layer(transform))
        made(x).square().sum().backward()
        for parameter in made.parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
        assert made.head.weight.grad.abs().max() > 0

    def test_compile_fullgraph_agrees(self, transform, x):
        made = stirred(layer(transform))
        compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), made(x))

    def test_export_has_a_dynamic_batch(self, transform, x):
        made = stirred(layer(transform)).eval()
        shapes = ({0: torch.export.Dim("batch", min=2)},)
        program = torch.export.export(made, (x,), dynamic_shapes=shapes).module()
        more = torch.rand(5, 1, 12, 12)
        torch.testing.assert_close(program(more), made(more))

    def test_half_model_keeps_theta_wide(self, transform, x):
        made = layer(transform).bfloat16()
        half = x.bfloat16()
        assert made.theta(half).dtype == torch.float32
        assert torch.equal(made(half), half)

    def test_state_dict_holds_no_constants(self, transform, x):
        names = set(layer(transform).state_dict())
        assert names == {
            *(f"localization.{i}.{kind}" for i in (1, 3, 5) for kind in ("weight", "bias")),
            "head.weight",
            "head.bias",
            *(f"transform.{name}" for name, _ in transform.named_parameters()),
        }


def test_autocast_does_not_move_pixels(x):
    made = layer(stn.Affine())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert made.theta(x).dtype == torch.float32
        torch.testing.assert_close(made(x), x, atol=1e-5, rtol=0)


def test_vmap_over_images(x):
    made = stirred(layer(stn.Affine()))
    one_by_one = torch.func.vmap(lambda image: made(image.unsqueeze(0)).squeeze(0))(x)
    torch.testing.assert_close(one_by_one, made(x))


def test_initial_theta(x):
    start = [0.0, 0.25, -0.5]
    made = layer(stn.Attention(), initial_theta=start)
    torch.testing.assert_close(made.theta(x), torch.tensor([start] * 3))


class TestFiniteCheck:
    def broken(self, **options):
        made = layer(stn.Affine(), **options)
        with torch.no_grad():
            made.head.bias[0] = float("nan")
        return made

    def test_training_names_the_sample(self, x):
        with pytest.raises(ValueError, match=r"theta of sample 0 .*param_groups"):
            self.broken()(x)

    def test_evaluation_reads_fill(self, x):
        assert (self.broken(fill=0.5, padding_mode="fill").eval()(x) == 0.5).all()

    def test_can_be_forced_and_forbidden(self, x):
        self.broken(check_finite=False)(x)
        with pytest.raises(ValueError, match="not finite"):
            self.broken(check_finite=True).eval()(x)


class TestErrors:
    def test_unknown_number_of_features(self):
        with pytest.raises(ValueError, match="pass num_features"):
            stn.SpatialTransformer(nn.Flatten(), stn.Affine())

    def test_localization_of_another_shape(self, x):
        made = stn.SpatialTransformer(nn.Identity(), stn.Affine(), num_features=4)
        with pytest.raises(ValueError, match=r"got \(3, 1, 12, 12\); end it with nn.Flatten"):
            made(x)

    def test_initial_theta_of_another_shape(self):
        with pytest.raises(ValueError, match=r"must have shape \(6,\), got \(3,\)"):
            layer(stn.Affine(), initial_theta=[0.0, 0.0, 0.0])

    def test_size(self):
        with pytest.raises(ValueError, match=r"size must be 2 positive integers \(H, W\)"):
            layer(stn.Affine(), (3, 4, 5))

    def test_small_image_for_convolutions(self):
        with pytest.raises(ValueError, match="at least 28 x 28"):
            ConvLocalization((1, 20, 28))

    def test_number_of_localizations(self):
        nets = [DenseLocalization((1, 12, 12))] * 2
        with pytest.raises(ValueError, match="one module or 3, got 2"):
            stn.ParallelTransformers(nets, stn.Affine(), 3)


class TestParallel:
    @pytest.mark.parametrize("shared", [True, False])
    def test_equals_single_transformers(self, x, shared):
        nets = [DenseLocalization((1, 12, 12), width=8) for _ in range(3)]
        parts = stn.ParallelTransformers(nets[0] if shared else nets, stn.Similarity(), 3, (6, 6))
        stirred(parts)
        output, theta = parts(x), parts.theta(x)
        assert output.shape == (3, 3, 1, 6, 6)
        for k in range(3):
            expected = stn.warp(x, stn.Similarity(), theta[:, k], (6, 6))
            torch.testing.assert_close(output[:, k], expected)
        assert parts.inspect(x).grid.shape == (3, 3, 6, 6, 2)

    def test_tiles_cover_the_image_once(self):
        image = torch.arange(64.0).view(1, 1, 8, 8)
        parts = stn.ParallelTransformers(
            DenseLocalization((1, 8, 8)), stn.Attention(scale=0.5), 4, (4, 4), initial_theta="tile"
        )
        seen = parts(image).flatten().sort().values
        torch.testing.assert_close(seen, torch.arange(64.0), atol=1e-4, rtol=0)

    @pytest.mark.parametrize(
        "transform", [t for t in TRANSFORMS if not isinstance(t, WITHOUT_TILES)], ids=repr
    )
    def test_tile_works_for_every_family_with_a_fit(self, transform):
        parts = stn.ParallelTransformers(
            DenseLocalization((1, 8, 8)), transform, 2, initial_theta="tile"
        )
        centres = transform.map_points(parts.theta(torch.rand(1, 1, 8, 8))[0], torch.zeros(1, 2))
        torch.testing.assert_close(
            centres[:, 0], torch.tensor([[-0.5, 0.0], [0.5, 0.0]]), atol=1e-5, rtol=0
        )

    def test_unknown_layout(self):
        with pytest.raises(ValueError, match='or "tile"'):
            stn.ParallelTransformers(
                DenseLocalization((1, 8, 8)), stn.Affine(), 2, initial_theta="tiles"
            )


class TestCascade:
    @pytest.mark.parametrize("shared", [True, False])
    def test_each_step_sees_the_image_resampled_once(self, x, shared):
        nets = [DenseLocalization((1, 12, 12), width=8) for _ in range(3)]
        made = stn.Cascade(nets[0] if shared else nets, stn.Affine(), 3, (5, 5))
        stirred(made)
        affine, matrix = stn.Affine(), torch.eye(3).repeat(3, 1, 1)
        for k in range(3):
            seen = stn.warp_matrix(x, matrix[:, :2])
            which = 0 if shared else k
            step = affine.matrix(made.head[which](made.localization[which](seen)))
            step = torch.cat([step, torch.tensor([[[0.0, 0, 1]]]).expand(3, 1, 3)], 1)
            matrix = matrix @ step
        expected = stn.warp_matrix(x, matrix[:, :2], (5, 5))
        torch.testing.assert_close(made(x), expected, atol=1e-5, rtol=1e-4)

    def test_shared_step_has_one_head(self):
        net = DenseLocalization((1, 12, 12))
        assert len(stn.Cascade(net, stn.Affine(), 3).head) == 1


class TestParamGroups:
    def test_every_parameter_once(self):
        net = DenseLocalization((1, 12, 12))
        model = nn.Sequential(
            stn.SpatialTransformer(net, stn.Affine()),
            stn.Cascade(net, stn.Affine(), 2),
            nn.Flatten(),
            nn.Linear(144, 10),
        )
        rest, slow = stn.param_groups(model, 1.0, 0.1)
        assert (rest["lr"], slow["lr"]) == (1.0, 0.1)
        assert {id(p) for p in rest["params"]} == {id(p) for p in model[3].parameters()}
        together = [id(p) for p in rest["params"] + slow["params"]]
        assert sorted(together) == sorted(id(p) for p in model.parameters())

    def test_a_net_without_transformer_is_one_group(self):
        assert len(stn.param_groups(nn.Linear(2, 2), 1.0, 0.1)) == 1


class TestDiagnose:
    def test_closed_forms(self):
        theta = torch.tensor([[0.0, 0, 0], [2.0, 0, 0], [0.5, 0, 0]])
        theta[1:, 0].log_()
        found = stn.nn.diagnose(stn.Attention(), theta, (8, 8))
        torch.testing.assert_close(found.outside, torch.tensor([0.0, 0.75, 0.0]))
        torch.testing.assert_close(found.scale, torch.tensor([1.0, 2.0, 0.5]))
        torch.testing.assert_close(found.min_det, torch.tensor([1.0, 4.0, 0.25]))
        assert not found.folded.any()

    def test_folds(self):
        theta = torch.zeros(1, 32)
        theta[0, 10] = 3.0  # one inner control point pulled across its neighbours
        found = stn.nn.diagnose(stn.ThinPlateSpline((4, 4)), theta, (32, 32))
        assert 0 < found.folded.item() < 1
        assert found.min_det.item() < 0
        mirror = torch.tensor([[-2.0, 0, 0, 0, 0, 0]])
        assert stn.nn.diagnose(stn.Affine(), mirror, (4, 4)).folded.item() == 1
