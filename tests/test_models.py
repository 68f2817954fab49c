"""The paper's networks: budgets, shapes, folders."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import stn
from stn.evaluation import answer_loss
from stn.models import MODELS, Ensemble, NetSpec, count_parameters
from stn.nn.transformer import ThetaHead
from stn.recipes import PAPER, Digits, make_experiment, queue_of
from stn.recipes.digits import BEST

FLAT = [f"mnist-{name}" for name in PAPER if name != "volumes"]


@pytest.mark.parametrize("recipe", FLAT)
@pytest.mark.parametrize("model", MODELS)
def test_every_cell_builds_within_its_budget(recipe, model):
    net = make_experiment(recipe, model).net
    network = net.build()
    assert network(torch.rand(2, *net.shape)).shape == (2, 9 * net.shape[0] + 1)
    # vgg has no more than 32 filters; one filter more makes a conv5 too large.
    least = 0.5 if "vgg" in model else 0.9 if "conv5" in model else 0.97
    assert least * net.budget <= count_parameters(network) <= net.budget


@pytest.mark.parametrize("recipe", FLAT)
@pytest.mark.parametrize("base", ["fcn", "cnn"])
def test_twins_cost_the_same_and_train_alike(recipe, base):
    plain = make_experiment(recipe, base)
    cost = count_parameters(plain.net.build())
    for family in ("affine", "projective", "tps"):
        twin = make_experiment(recipe, f"st-{base}-{family}")
        assert abs(count_parameters(twin.net.build()) / cost - 1) <= 0.025
        assert twin.training == plain.training


@pytest.mark.parametrize(("model", "units"), [("st-fcn-affine", 32), ("st-cnn-tps", 20)])
def test_a_localization_is_as_wide_as_asked(model, units):
    net = make_experiment("mnist-rts", model).net
    for width in (1, 3):
        network = replace(net, localization_width=width).build()
        heads = [head for head in network.modules() if isinstance(head, ThetaHead)]
        assert heads
        assert all(head.in_features == width * units for head in heads)
        assert count_parameters(network) <= net.budget


class TestEnsemble:
    NET = NetSpec("st-vgg-similarity", (1, 28, 28), budget=60_000, members=3, steps=2)

    def test_members_answer_together_and_each_has_its_start_and_share(self):
        together = self.NET.build().eval()
        assert isinstance(together, Ensemble)
        assert 40_000 < count_parameters(together) <= self.NET.budget
        x = torch.rand(5, 1, 28, 28)
        each = [member(x).softmax(-1) for member in together.members]
        assert not torch.allclose(each[0], each[1])
        assert not torch.allclose(each[0], each[2])
        torch.testing.assert_close(together(x).exp(), sum(each) / 3)
        torch.testing.assert_close(together(x).exp().sum(-1), torch.ones(5))

    def test_what_is_looked_at_is_of_the_first_member(self, tmp_path):
        together = self.NET.build()
        assert together.transformer is together.members[0].transformer
        card = (together.save_pretrained(tmp_path / "three") / "README.md").read_text()
        assert "# what the first of 3 classifiers looks at" in card
        assert together.stem is together.members[0].stem
        assert not any(name.split(".")[0] == "transformer" for name in together.state_dict())
        plain = replace(self.NET, name="vgg").build()
        assert plain.transformer is None

    def test_members_learn_apart(self):
        """Each has a third of the gradient that it has alone."""
        together = self.NET.build().double().train()
        x, labels = torch.rand(5, 1, 28, 28).double(), torch.arange(5)
        answer_loss(together(x), labels).backward()
        for member in together.members:
            own = [p.grad.clone() for p in member.parameters()]
            member.zero_grad()
            answer_loss(member(x), labels).backward()
            for mine, alone in zip(own, member.parameters(), strict=True):
                torch.testing.assert_close(3 * mine, alone.grad)

    def test_written_and_read_again(self, tmp_path):
        together = self.NET.build().eval()
        again = stn.load_model(together.save_pretrained(tmp_path / "three"))
        x = torch.rand(2, 1, 28, 28)
        assert torch.equal(again(x), together(x))

    @pytest.mark.parametrize("members", [0, -1, 1.5])
    def test_needs_a_member(self, members):
        with pytest.raises(ValueError, match=f"members must be a positive integer, got {members}"):
            replace(self.NET, members=members)


def test_the_loss_of_answers_of_several_parts_by_several_networks():
    logits, labels = torch.randn(4, 3, 5, 11), torch.randint(11, (4, 5))
    each = [answer_loss(logits[:, member], labels) for member in range(3)]
    torch.testing.assert_close(answer_loss(logits, labels), sum(each) / 3)


@pytest.mark.parametrize("model", ["fcn", "st-cnn-affine", "2xst-conv5-similarity"])
def test_dropout_stands_before_the_last_layer_while_it_trains(model):
    plain = NetSpec(name=model, shape=(1, 42, 42)).build()
    network = NetSpec(name=model, shape=(1, 42, 42), dropout=0.5).build()
    assert count_parameters(network) == count_parameters(plain)
    dropout, last = network.classifier[-2:]
    features, kept = [], []
    dropout.register_forward_pre_hook(lambda _, seen: features.append(seen[0]))
    last.register_forward_pre_hook(lambda _, seen: kept.append(seen[0]))
    x = torch.rand(64, 1, 42, 42)
    logits = network.train()(x)
    torch.testing.assert_close(logits, last(kept[0]))
    torch.testing.assert_close(kept[0], torch.where(kept[0] == 0, 0, 2 * features[0]))
    alive = features[0] > 0
    assert (kept[0][alive] == 0).double().mean().item() == pytest.approx(0.5, abs=0.1)
    network.eval()(x)
    assert torch.equal(kept[-1], features[-1])


@pytest.mark.parametrize(
    ("model", "steps"), [("st-fcn-tps", 1), ("st-vgg-similarity", 2), ("2xst-fcn-affine", 1)]
)
def test_a_window_is_where_the_transformer_begins(model, steps):
    net = NetSpec(name=model, shape=(1, 42, 42), size=(28, 28), steps=steps, window=2 / 3)
    layer = net.build().transformer.eval()
    x = torch.rand(2, 1, 42, 42)
    seen = layer(x).view(2, -1, 28, 28)
    torch.testing.assert_close(seen, x[..., 7:-7, 7:-7].expand_as(seen), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"LearnedBasis.* cannot begin zoomed in"):
        replace(net, name="st-fcn-basis").build()


@pytest.mark.parametrize(("model", "steps"), [("st-fcn-tps", 1), ("st-cnn-affine", 2)])
def test_theta_goes_forward_to_the_logits(model, steps):
    net = replace(make_experiment("mnist-rts", model).net, steps=steps, theta_forward=True)
    network = net.build().eval()
    assert count_parameters(network) <= net.budget
    for module in network.transformer.modules():
        if isinstance(module, ThetaHead):
            torch.nn.init.normal_(module.bias, std=0.05)
    x = torch.rand(3, *net.shape)
    theta = network.transformer.theta(x)
    seen = network.classifier(network.pool(network.transformer(x)))
    expected = seen + theta @ network.of_theta.weight.mT
    assert (expected - seen).abs().min() > 0
    torch.testing.assert_close(network(x), expected)


def test_a_transformer_behind_a_stem_warps_feature_maps():
    spec = NetSpec(name="st-cnn-affine", shape=(1, 42, 42), budget=200_000, stem=2)
    network = spec.build().eval()
    assert 0.9 * spec.budget <= count_parameters(network) <= spec.budget
    x = torch.rand(2, 1, 42, 42)
    maps = network.stem(x)
    assert maps.shape[1] > 1
    assert maps.shape[2:] == (34, 34)
    seen = network.transformer(maps)
    torch.testing.assert_close(seen, maps, atol=1e-5, rtol=0)  # the identity at the start
    torch.testing.assert_close(network(x), network.classifier(seen))
    with pytest.raises(ValueError, match="a stem is for st-cnn- nets without pool, size"):
        NetSpec(name="st-fcn-affine", shape=(1, 42, 42), stem=2).build()


@pytest.mark.parametrize("model", ["st-fcn-tps", "st-cnn-affine"])
def test_a_transformer_net_starts_at_the_identity(model):
    network = make_experiment("mnist-tc", model).net.build()
    x = torch.rand(2, 1, 60, 60)
    assert network.transformer is not None
    torch.testing.assert_close(network.transformer(x), x, atol=1e-5, rtol=0)


def test_a_volume_is_transformed_then_flattened():
    network = make_experiment("mnist-volumes", "st-fcn-affine").net.build().eval()
    plain = make_experiment("mnist-volumes", "fcn").net.build()
    assert abs(count_parameters(network) / count_parameters(plain) - 1) <= 0.025
    x = torch.rand(2, 1, 60, 60, 60)
    assert network.transformer is not None
    seen = network.transformer(x)
    assert seen.shape == (2, 1, 30, 30, 30)
    torch.testing.assert_close(network(x), network.classifier(seen.mean(2)))


@pytest.mark.parametrize("recipe", [f"mnist-{name}" for name in BEST])
def test_the_best_networks_cost_no_more_than_the_papers(recipe):
    (experiment,) = [e for e in queue_of("all", "best", 1) if e.recipe == recipe]
    assert isinstance(experiment, Digits)
    assert count_parameters(experiment.net.build()) <= 400_000


def test_errors_name_the_way_out():
    with pytest.raises(ValueError, match="unknown model 'resnet'; known are fcn, cnn"):
        NetSpec("resnet", (1, 28, 28)).build()
    with pytest.raises(ValueError, match="budget of 100 parameters is too small"):
        NetSpec("fcn", (1, 28, 28), budget=100).build()
    with pytest.raises(ValueError, match="cnn needs images of at least 21 x 21"):
        NetSpec("cnn", (1, 20, 28)).build()


class TestFolder:
    spec = NetSpec("st-fcn-affine", (1, 28, 28), budget=60_000)

    @pytest.fixture
    def folder(self, tmp_path):
        network = self.spec.build()
        save_file(network.state_dict(), tmp_path / "model.safetensors")
        net = self.spec.__dict__ | {"shape": list(self.spec.shape)}
        (tmp_path / "config.json").write_text(json.dumps({"net": net}))
        self.network = network.eval()
        return tmp_path

    def test_loads_the_same_network_in_eval_mode(self, folder):
        loaded = stn.load_model(folder)
        x = torch.rand(3, 1, 28, 28)
        assert not loaded.training
        assert torch.equal(loaded(x), self.network(x))

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("config.json", None, "is not a run or a model"),
            ("config.json", b"{", "is damaged"),
            ("config.json", b"[]", "is damaged"),
            ("config.json", b"{}", "has no network"),
            ("config.json", b'{"net": {"name": "fcn"}}', "has no network"),
            ("config.json", b'{"net": {"name": "x", "shape": [1, 28, 28]}}', "unknown model 'x'"),
            (
                "config.json",
                b'{"net": {"name": "fcn", "shape": [1, 28, 28]}}',
                "does not fit config.json",
            ),
            ("model.safetensors", None, "has not finished"),
            ("model.safetensors", b"\x80\x04pickle", "is damaged"),
            ("model.safetensors", b"", "is damaged"),
        ],
    )
    def test_what_is_wrong_is_said(self, folder, name, content, message):
        path = folder / name
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            stn.load_model(folder)
