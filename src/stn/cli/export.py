"""`stn export`: a trained network as a file that runs without stn."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Export:
    """Write a trained network as an ONNX file or a torch.export program, checked on real images."""

    folder: tyro.conf.Positional[Path]
    """Run or published model."""
    output: Path
    """The file: .onnx, or .pt2 with --format torch."""
    format: Literal["onnx", "torch"] = "onnx"
    """onnx for onnxruntime and others; torch for a saved torch.export program."""
    lowering: Literal["native", "gather"] = "native"
    """gather writes warps without GridSample, for runtimes that refuse it, of volumes above all."""
    trust_code: bool = False
    """Run the function that a network's backbone may name, MODULE:FUNCTION."""

    def __call__(self) -> None:
        from ..export import FORMATS, OPSET, export_model
        from ..models import load_model

        if self.output.suffix != FORMATS[self.format]:
            raise ValueError(
                f"--output of format {self.format} must end in {FORMATS[self.format]}, got "
                f"{self.output}"
            )
        model = load_model(self.folder, trust_code=self.trust_code)
        images, what = self._images()
        made = export_model(model, images, self.output, self.format, self.lowering)
        kind = f"ONNX opset {OPSET}" if self.format == "onnx" else "torch.export"
        runtime = "onnxruntime" if self.format == "onnx" else "torch"
        print(f"wrote {made.path}: {made.bytes:,} bytes, {kind}, {made.nodes} nodes")
        print(
            f"largest difference from the model in {runtime}, on {what}: "
            + ", ".join(f"{d:.1e} in a batch of {b}" for b, d in made.differences.items())
            + f"; outputs up to {made.largest:.3g}"
        )

    def _images(self) -> tuple["Tensor", str]:
        """Some to compare on, and what they are."""
        import torch

        from ..models import read_spec
        from ..recipes import read_experiment

        try:
            experiment = read_experiment(self.folder / "config.json")
            return experiment.shown(experiment.load()).images, "test images"
        except (ValueError, OSError) as error:
            print(f"comparing on random images, as the run's own cannot be had: {error}")
        generator = torch.Generator().manual_seed(0)
        return torch.rand(17, *read_spec(self.folder).shape, generator=generator), "random images"
