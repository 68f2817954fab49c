"""`stn explore`: the page to play on."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Explore:
    """Serve a local page: draw, distort, see where a network looks; play with every transform."""

    folder: tyro.conf.Positional[Path | None] = None
    """Run or published model; without one, transforms and samplers alone."""
    host: str = "127.0.0.1"
    """Address to listen at; the default is seen from this machine only."""
    port: int | None = None
    """Port to listen at; by default the first that is free from 7860."""
    open: bool = False
    """Open the page in the browser."""
    threads: int = 1
    """Threads to compute on; more of them help large networks only."""
    trust_code: bool = False
    """Run the function that a network's backbone may name, MODULE:FUNCTION."""

    def __call__(self) -> None:
        import torch

        from ..explore import explore

        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        torch.set_num_threads(self.threads)
        explore(
            self.folder,
            host=self.host,
            port=self.port,
            open_browser=self.open,
            trust_code=self.trust_code,
        )
