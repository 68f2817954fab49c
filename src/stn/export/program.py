"""Writing a model as a program that runs without stn, once it is shown to agree with the model."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .._checks import check_choice, check_floating, shape_of
from ..training import write_atomically
from .lowering import LOWERINGS, lowered

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
OPSET = 20  # the first whose GridSample takes volumes
TOLERANCE = 1e-5
BATCHES = (1, 2, 17)


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Args:
        path: of it.
        bytes: its size.
        nodes: operators in its graph.
        differences: by batch size, the largest difference from the model's output.
        largest: absolute value of the model's outputs.
    """

    path: Path
    bytes: int
    nodes: int
    differences: dict[int, float]
    largest: float


def export_model(
    model: nn.Module,
    images: Tensor,
    path: str | Path,
    format: str = "onnx",
    lowering: str = "native",
) -> Exported:
    """Write a model as a program that runs without stn, for batches of any size.

    The program runs on `images`, in batches of 1, 2 and 17, before anything is written, and must
    agree with the model: max |program - model| <= 1e-5 max(1, max |model|).

    Args:
        model: (B, C, *S) float32 -> one tensor, with the batch first; exported in eval mode.
        images: (N, C, *S) on which to compare, such as test images; repeated if fewer than 17.
        path: of the file: .onnx, or .pt2 for torch.
        format: "onnx", opset 20, with the input "images" and the output "output"; or "torch", a
            saved torch.export program.
        lowering: "native" leaves a warp to the runtime's GridSample; "gather" makes it of gathers
            and arithmetic alone, for runtimes that refuse GridSample, of volumes above all.
            Antialiased warps are made so in either.

    Returns:
        What was written, and how far it is from the model.

    Raises:
        ValueError: a wrong suffix, format or lowering, a missing package, a model that cannot be
            exported, or whose program differs from it: then no file is written.

    Note:
        Places are computed in float64 in the program, as in stn itself. The windows of an
        antialiased warp are as large as the batch's largest footprint, computed by the program.

    Example:
        >>> from stn.export import export_model
        >>> layer = stn.SpatialTransformer(stn.nn.DenseLocalization((1, 8, 8)), stn.Affine())
        >>> file = getfixture("tmp_path") / "layer.pt2"
        >>> export_model(layer, torch.rand(4, 1, 8, 8), file, format="torch").path == file
        True
    """
    path = Path(path)
    check_choice(format, tuple(FORMATS), "format")
    check_choice(lowering, LOWERINGS, "lowering")
    check_floating(images, "images")
    if path.suffix != FORMATS[format]:
        raise ValueError(f"a file of format {format!r} ends in {FORMATS[format]}, got {path}")
    if len(images) < 1:
        raise ValueError(f"images must hold at least one to compare on, got {shape_of(images)}")
    most = max(BATCHES)
    images = torch.cat([images] * -(-most // len(images)))[:most]
    with _quiet():
        program = _trace(lowered(model, lowering), torch.rand_like(images[:2]))
        data, nodes, run = (_as_onnx if format == "onnx" else _as_torch)(program)
        sampling = [name for name in nodes if "grid" in name.lower() and "sampl" in name.lower()]
        if lowering == "gather" and sampling:
            raise ValueError(
                f"lowering 'gather' reaches transformer layers only, and the model calls "
                f"{sampling[0]} elsewhere: put that warp into a layer, or take lowering 'native'"
            )
        differences, largest = _compare(model, run, images)
    beyond = [d for d in differences.values() if not d <= TOLERANCE * max(1.0, largest)]  # or NaN
    if beyond:
        raise ValueError(
            f"{path} is not written: the program differs from the model by {beyond[0]:.1e} on "
            f"outputs up to {largest:.3g}, more than {TOLERANCE:g} of them; try another lowering, "
            "or format 'torch'"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
    return Exported(path, len(data), len(nodes), differences, largest)


Run = Callable[[Tensor], Tensor]


def _trace(model: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    try:
        # Under no_grad, layers that switch it on and off within cannot be translated.
        with torch.enable_grad():
            program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},))
    except Exception as error:  # of many kinds, on several pages
        raise ValueError(f"torch.export cannot trace this model: {_reason(error)}") from error
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # with the paths of this machine
    return program


def _reason(error: BaseException) -> str:
    """The first line of what began it all."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _as_torch(program: torch.export.ExportedProgram) -> tuple[bytes, list[str], Run]:
    program.example_inputs = None  # or they are saved, too
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    nodes = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    return file.getvalue(), nodes, torch.export.load(file).module()


def _as_onnx(program: torch.export.ExportedProgram) -> tuple[bytes, list[str], Run]:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"format 'onnx' needs a package that is missing ({error}): "
            "pip install 'torch-stn[export]'"
        ) from None

    try:
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["output"],
            verbose=False,
        )
    except Exception as error:
        raise ValueError(f"torch.onnx cannot translate this model: {_reason(error)}") from error
    assert made is not None
    data = made.model_proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (output,) = session.run(None, {"images": images.numpy()})
        return torch.from_numpy(output)

    return data, [node.op_type for node in made.model.graph], run


@torch.no_grad()
def _compare(model: nn.Module, run: Run, images: Tensor) -> tuple[dict[int, float], float]:
    """The largest difference for each batch size, and the largest output."""
    training = model.training
    differences, largest = {}, 0.0
    try:
        model.eval()
        for batch in BATCHES:
            wanted, got = model(images[:batch]), run(images[:batch])
            assert got.shape == wanted.shape
            differences[batch] = float((got - wanted).abs().max())
            largest = max(largest, float(wanted.abs().max()))
    finally:
        model.train(training)
    return differences, largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's notes on packages that it does not find, and on its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
