"""The processes that train one network together: one alone, or many by `torchrun`."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn


class ProcessLost(RuntimeError):
    """Another process of this training has died."""


class Processes:
    """This process's place among those of `torchrun` or `accelerate launch`, by Accelerate.

    Args:
        cpu: stay on the CPU even if there is a GPU.
    """

    def __init__(self, cpu: bool = False):
        from accelerate import Accelerator

        self.accelerator = Accelerator(cpu=cpu or not torch.cuda.is_available())
        self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device
        self.is_main = self.accelerator.is_main_process

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes of a small tensor."""
        if self.count == 1:
            return values
        summed = values.to(self.device, copy=True)
        dist.all_reduce(summed)
        return summed.to(values.device)

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the main one's buffers: batch norms have seen different images."""
        if self.count > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def wait(self) -> None:
        """Until all processes are here."""
        self.accelerator.wait_for_everyone()

    @contextmanager
    def together(self, step: int) -> Iterator[None]:
        """Turn the failure of a message between processes into ProcessLost.

        Args:
            step: of the checkpoint at which training will go on.
        """
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not _is_message(error):
                raise
            raise self.lost(step) from error

    def lost(self, step: int) -> ProcessLost:
        """The error for it. `torchrun` says which one, and tells the others to stop."""
        return ProcessLost(
            f"another of the {self.count} processes was lost; start the same command again, it "
            f"goes on from the checkpoint at step {step}"
        )

    def close(self) -> None:
        """Say goodbye; without it gloo sometimes aborts at exit."""
        if self.count > 1 and dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()


def _is_message(error: RuntimeError) -> bool:
    """Whether it came from the transport, not from the network that is trained."""
    words = ("closed by peer", "gloo", "NCCL", "Connection reset", "Broken pipe", "ECONN")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)
