"""Every published model as ONNX agrees with PyTorch, in both lowerings and any batch."""

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

import stn
from stn.export import export_model
from stn.recipes import Digits, frozen_digits, read_experiment

from . import synthetic

MODELS = sorted(Path(__file__).parents[1].glob("results/models/*"))
QUICK = {("mnist-volumes", "native"), ("mnist-volumes", "gather")}
ROWS = [
    pytest.param(
        folder,
        lowering,
        id=f"{folder.name}-{lowering}",
        marks=() if (folder.name, lowering) in QUICK else pytest.mark.slow,
    )
    for folder in MODELS
    for lowering in ("native", "gather")
]


def digits(folder):
    """17 digits set in type, distorted as those the model was trained on."""
    made = read_experiment(folder / "config.json")
    if not isinstance(made, Digits):
        return made.shown(synthetic.typed()).images[:17]
    return next(iter(frozen_digits(made.distortion, synthetic.typed(), "test", 0))).images[:17]


@pytest.mark.parametrize(("folder", "lowering"), ROWS)
def test_published_models_agree_in_onnxruntime(folder, lowering, tmp_path):
    model, images, path = stn.load_model(folder), digits(folder), tmp_path / "model.onnx"
    assert len(images) == 17
    export_model(model, images, path, lowering=lowering)

    graph = onnx.load(path)
    assert {imported.domain: imported.version for imported in graph.opset_import}[""] == 20
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param  # any batch
    sampled = any(node.op_type == "GridSample" for node in graph.graph.node)
    # An antialiased warp does without; the earlier steps of a cascade are never antialiased.
    layer = model.transformer
    has_plain_warp = isinstance(layer, stn.Cascade) or not layer.antialias
    assert sampled == (lowering == "native" and has_plain_warp)

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 17):
        got = torch.from_numpy(session.run(None, {"images": images[:batch].numpy()})[0])
        with torch.no_grad():
            wanted = model(images[:batch])
        difference, largest = float((got - wanted).abs().max()), float(wanted.abs().max())
        print(f"{folder.name} {lowering} {batch}: {difference:.1e} of {largest:.1f}")
        assert difference <= 1e-5 * largest
        torch.testing.assert_close(got.softmax(-1), wanted.softmax(-1), atol=1e-5, rtol=0)
