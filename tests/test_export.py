"""Programs that run without stn, and what refuses to be one."""

import subprocess
import sys
import zipfile

import pytest
import torch
import torch.nn.functional as F

import stn
from stn.cli import main
from stn.export import Exported, export_model
from stn.models import NetSpec
from stn.sampling import antialias, antialias_traced

FAMILIES = (stn.Affine(2), stn.Projective(2), stn.ThinPlateSpline((3, 3)))
OTHERS = (
    stn.Rigid(3), stn.Attention(), stn.Projective(3), stn.PiecewiseAffine((3, 3)),
    stn.FreeForm((4, 4)), stn.Displacement((4, 4)), stn.Velocity((4, 4)), stn.CPAB((2, 2)),
    stn.Polar(), stn.LogPolar(), stn.LearnedBasis(3, (4, 4)),
    stn.Compose(stn.Affine(), stn.Projective()),
)  # fmt: skip


def layer(**options):
    """A small transformer that turns, shrinks and moves, each image differently."""
    made = stn.SpatialTransformer(
        stn.nn.DenseLocalization((1, 12, 12)), stn.Similarity(), (6, 5), **options
    )
    torch.nn.init.normal_(made.head.weight, std=0.1)
    with torch.no_grad():
        made.head.bias.copy_(torch.tensor([0.5, 0.4, 0.1, -0.2]))
    return made


@pytest.fixture(scope="module")
def images():
    return torch.rand(17, 1, 12, 12, generator=torch.Generator().manual_seed(1))


def run_onnx(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def operators(path):
    import onnx

    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.fixture
def warped_both_ways(monkeypatch):
    def warped(x, transform, theta, size, **options):
        wanted = stn.warp(x, transform, theta, size, antialias=True, **options)
        monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
        return stn.warp(x, transform, theta, size, antialias=True, **options), wanted

    return warped


@pytest.mark.parametrize(
    ("mode", "transform"),
    [*(("bilinear", family) for family in FAMILIES), ("lanczos3", stn.Affine())],
    ids=str,
)
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection", "mirror", "wrap"])
def test_the_traceable_antialiased_warp_is_the_same(
    warped_both_ways, transform, padding_mode, mode
):
    x, theta = torch.rand(4, 2, 20, 23), 0.5 * torch.randn(4, transform.num_params)
    theta[3] = torch.nan
    options = {"mode": mode, "padding_mode": padding_mode}
    got, wanted = warped_both_ways(x, transform, theta, (9, 7), **options)
    torch.testing.assert_close(got, wanted, atol=2e-6, rtol=0)


@pytest.mark.parametrize("mode", ["bicubic", "gaussian"])
def test_it_reads_fill_outside(warped_both_ways, mode):
    x, theta = torch.rand(3, 2, 20, 23), 0.7 * torch.randn(3, 6)
    options = {"mode": mode, "padding_mode": "fill", "fill": 0.3}
    got, wanted = warped_both_ways(x, stn.Affine(), theta, (12, 10), **options)
    torch.testing.assert_close(got, wanted, atol=2e-6, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_same_in_three_dimensions(warped_both_ways, seed):
    torch.manual_seed(seed)
    x, theta = torch.rand(3, 2, 9, 10, 8), 0.7 * torch.randn(3, 12)
    got, wanted = warped_both_ways(x, stn.Affine(3), theta, (4, 5, 6))
    torch.testing.assert_close(got, wanted, atol=2e-6, rtol=0)


@pytest.mark.parametrize("dim", [2, 3])
def test_rotations_find_footprints_as_eigenvectors_do(dim):
    """Also of repeated eigenvalues, of maps that lose an axis, and of those that are not finite."""
    jacobian = 3 * torch.randn(200, dim, dim, dtype=torch.float64)
    jacobian[0], jacobian[1], jacobian[2, 0], jacobian[3] = 0, 2 * torch.eye(dim), 0, 1e9
    jacobian[4, 0, 0], jacobian[5, 0, 0] = torch.nan, torch.inf
    inverse, reach = antialias_traced.footprints(jacobian, (40, 50))
    wanted, wanted_reach = antialias.footprints(jacobian, (40, 50))
    torch.testing.assert_close(inverse, wanted, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(reach, wanted_reach, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("lowering", "antialiased"),
    [
        ("native", False),
        ("gather", False),
        ("gather", True),
        pytest.param("native", True, marks=pytest.mark.slow),  # the same program
    ],
)
def test_onnx_agrees_for_every_batch(tmp_path, images, lowering, antialiased):
    model, path = layer(antialias=antialiased), tmp_path / "layer.onnx"
    made = export_model(model, images, path, lowering=lowering)
    for count in (1, 3, 17):
        torch.testing.assert_close(
            run_onnx(path, images[:count]), model(images[:count]), atol=1e-5, rtol=0
        )
    assert ("GridSample" in operators(path)) == (lowering == "native" and not antialiased)
    assert set(made.differences) == {1, 2, 17}
    assert max(made.differences.values()) <= 1e-5
    assert made.bytes == path.stat().st_size
    assert model.training  # as it was
    assert [file.name for file in tmp_path.iterdir()] == ["layer.onnx"]
    assert b"transformer.py" not in path.read_bytes()  # a path of this machine


def test_behind_the_horizon_of_a_projective_warp(tmp_path, images):
    """Its sign function has no translation in torch.onnx."""
    model = stn.SpatialTransformer(
        stn.nn.DenseLocalization((1, 12, 12)),
        stn.Projective(),
        initial_theta=[0.1, 0.2, 0, 0, 0, 0, 0.9, 0.8],
    )
    wanted = model(images)
    assert (wanted == 0).float().mean() > 0.1
    export_model(model, images, tmp_path / "p.onnx", lowering="gather")
    torch.testing.assert_close(run_onnx(tmp_path / "p.onnx", images), wanted, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("transform", OTHERS, ids=str)
def test_every_family(transform, tmp_path):
    size = (10,) * transform.dim
    model = stn.SpatialTransformer(stn.nn.DenseLocalization((1, *size)), transform)
    torch.nn.init.normal_(model.head.weight, std=0.05)
    torch.nn.init.normal_(model.head.bias, std=0.1)
    images, path = torch.rand(5, 1, *size), tmp_path / "family.onnx"
    export_model(model, images, path, lowering="gather")
    torch.testing.assert_close(run_onnx(path, images), model.eval()(images), atol=1e-5, rtol=0)


def test_a_network_with_two_thin_plate_splines(tmp_path):
    """A spline's constants are made under no_grad, in the midst of what is traced."""
    model = NetSpec("2xst-fcn-tps", (2, 28, 28)).build()
    for head in model.transformer.head:
        torch.nn.init.normal_(head.weight, std=0.1)
    images, path = torch.rand(17, 2, 28, 28), tmp_path / "two.onnx"
    with torch.no_grad():  # wherever it is called
        export_model(model, images, path)
        torch.testing.assert_close(
            run_onnx(path, images[:5]), model.eval()(images[:5]), atol=1e-5, rtol=0
        )


def test_a_saved_program_runs_without_stn_and_holds_no_images(tmp_path, images):
    model, path = layer(antialias=True).eval(), tmp_path / "layer.pt2"
    many = torch.cat([images, torch.rand(20_000, 1, 12, 12)])
    made = export_model(model, many, path, "torch", "gather")
    assert made.bytes < 1_000_000 < many.numel()
    with zipfile.ZipFile(path) as archive:
        assert not any(b"transformer.py" in archive.read(name) for name in archive.namelist())
    torch.save({"images": images, "wanted": model(images).detach()}, tmp_path / "both.pt")
    code = (
        "import sys, torch; sys.modules['stn'] = None; "
        "both = torch.load('both.pt'); run = torch.export.load('layer.pt2').module(); "
        "print(max(float((run(both['images'][:n]) - both['wanted'][:n]).abs().max())"
        " for n in (1, 17)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 1e-5


def test_one_that_differs_is_not_written(tmp_path, images, monkeypatch):
    from stn.export import program

    def slightly_off(model, lowering):
        return torch.nn.Sequential(lowered(model, lowering), Times())

    class Times(torch.nn.Module):
        def forward(self, x):
            return x * (1 + 5e-5)

    lowered = program.lowered
    monkeypatch.setattr(program, "lowered", slightly_off)
    path = tmp_path / "layer.pt2"
    path.write_text("an older one")
    with pytest.raises(ValueError, match=r"layer.pt2 is not written: .* differs .* by .*e-05"):
        export_model(layer(), images, path, "torch")
    assert path.read_text() == "an older one"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_output_that_is_not_a_number_is_not_written(tmp_path, images, monkeypatch):
    from stn.export import program

    class Broken(torch.nn.Module):
        def forward(self, x):
            return x[..., :6, :5] * torch.nan

    monkeypatch.setattr(program, "lowered", lambda model, lowering: Broken())
    with pytest.raises(ValueError, match="is not written"):
        export_model(layer(), images, tmp_path / "layer.pt2", "torch")


def test_gather_finds_samplers_outside_of_layers(tmp_path, images):
    class Own(torch.nn.Module):
        def forward(self, x):
            return F.grid_sample(x, x[:, 0, :6, :4].unflatten(-1, (2, 2)))

    with pytest.raises(ValueError, match=r"calls .*grid_sampler.* elsewhere"):
        export_model(Own(), images, tmp_path / "own.pt2", "torch", "gather")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "layer.pt"}, r"of format 'onnx' ends in \.onnx, got .*layer\.pt"),
        ({"path": "layer.onnx", "format": "torch"}, r"ends in \.pt2"),
        ({"path": "layer.onnx", "format": "tflite"}, "format must be one of 'onnx', 'torch'"),
        ({"path": "layer.onnx", "lowering": "fast"}, "lowering must be one of"),
        ({"path": "layer.onnx", "images": torch.rand(0, 1, 12, 12)}, "at least one"),
    ],
)
def test_what_is_asked_wrongly(tmp_path, images, options, message):
    options = {"images": images, **options, "path": tmp_path / options["path"]}
    with pytest.raises(ValueError, match=message):
        export_model(layer(), **options)
    assert not list(tmp_path.iterdir())


def test_models_that_cannot_be_traced_say_so(tmp_path, images):
    class Decides(torch.nn.Module):
        def forward(self, x):
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(ValueError, match=r"torch\.export cannot trace this model"):
        export_model(Decides(), images, tmp_path / "d.pt2", "torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    net = NetSpec("st-fcn-affine", (1, 28, 28), budget=40_000)
    return net.build().save_pretrained(tmp_path_factory.mktemp("models") / "mine")


def test_command(folder, tmp_path, capsys):
    path = tmp_path / "mine.onnx"
    assert main(["export", str(folder), "--output", str(path), "--lowering", "gather"]) == 0
    out = capsys.readouterr().out
    assert f"{path}: {path.stat().st_size:,} bytes, ONNX opset 20" in out
    assert "random images" in out
    assert "e-0" in out.split("batch of 17")[0]
    x = torch.rand(5, 1, 28, 28)
    torch.testing.assert_close(run_onnx(path, x), stn.load_model(folder)(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--output", "mine.pt2"), "must end in .onnx, got mine.pt2"),
        (("--output", "mine.onnx", "--format", "torch"), "must end in .pt2"),
    ],
)
def test_command_errors(folder, words, message, capsys):
    assert main(["export", str(folder), *words]) == 2
    assert message in capsys.readouterr().err


def test_command_on_what_is_no_run(tmp_path, capsys):
    assert main(["export", str(tmp_path), "--output", "mine.onnx"]) == 2
    assert "is not a run or a model" in capsys.readouterr().err


def test_a_missing_package_is_named(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["export", str(folder), "--output", str(tmp_path / "mine.onnx")]) == 2
    assert "pip install 'torch-stn[export]'" in capsys.readouterr().err


def test_what_comes_back_is_a_record(tmp_path, images):
    made = export_model(layer(), images[:3], tmp_path / "layer.pt2", "torch")
    assert isinstance(made, Exported)
    assert made.nodes > 10
    assert 0 < made.largest <= 1


@pytest.mark.parametrize("num", [None, 2])
def test_torch_export_takes_antialiased_layers_as_they_are(num):
    localization = stn.nn.DenseLocalization((1, 12, 12))
    options = {"antialias": True, "check_finite": False}
    if num is None:
        model = stn.SpatialTransformer(localization, stn.Affine(), (5, 4), **options)
    else:
        model = stn.ParallelTransformers(localization, stn.Affine(), num, (5, 4), **options)
    torch.nn.init.normal_(next(head for head in model.modules() if _is_head(head)).weight, std=0.2)
    images = torch.rand(9, 1, 12, 12)
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model.eval(), (images[:3],), dynamic_shapes=shapes).module()
    for count in (1, 9):
        torch.testing.assert_close(program(images[:count]), model(images[:count]))


def _is_head(module):
    return isinstance(module, torch.nn.Linear) and not module.weight.any()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_jit_trace_that_would_keep_one_batchs_footprints_is_refused(images):
    with pytest.raises(NotImplementedError, match=r"torch\.export"):
        torch.jit.trace(layer(antialias=True, check_finite=False), images[:2])


def test_not_a_number_in_one_row_is_a_difference(tmp_path, images):
    images, path = images.clone(), tmp_path / "flat.pt2"
    images[10] = torch.nan
    with pytest.raises(ValueError, match="is not written: the program differs from the model by n"):
        export_model(torch.nn.Flatten(), images, path, format="torch")
    assert not path.exists()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, images, monkeypatch):
    path = tmp_path / "flat.pt2"
    path.write_bytes(b"old")

    def full(_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        export_model(torch.nn.Flatten(), images, path, format="torch")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]
