"""A training step of st-fcn-affine on 42 x 42 images, and the same with torch's own sampler."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stn
from stn.models import NetSpec, Network

from .problem import SEED, Contender, Problem

LR = 1e-6  # so small that the network, and so the work, stays the same


class TorchTransformer(nn.Module):
    """What stn.SpatialTransformer does with stn.Affine(), by F.affine_grid and F.grid_sample."""

    eye: Tensor

    def __init__(self, twin: stn.SpatialTransformer):
        super().__init__()
        self.localization, self.head = twin.localization, twin.head
        self.register_buffer("eye", torch.eye(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        theta = self.head(self.localization(x)).view(-1, 2, 3) + self.eye
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)


def stn_step(problem: Problem) -> Contender:
    return _step(_network(), problem)


def torch_step(problem: Problem) -> Contender:
    network = _network()
    assert isinstance(network.transformer, stn.SpatialTransformer)
    plain = nn.Sequential(TorchTransformer(network.transformer), network.pool, network.classifier)
    return _step(plain, problem)


def _network():
    """With weights that are always the same, and a theta that is not the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = NetSpec("st-fcn-affine", (1, 42, 42), pool=2).build()
        assert isinstance(network, Network)
        assert isinstance(network.transformer, stn.SpatialTransformer)
        nn.init.normal_(network.transformer.head.weight, std=0.01)
        nn.init.normal_(network.transformer.head.bias, std=0.1)
    return network


def _step(network: nn.Module, problem: Problem) -> Contender:
    images = problem.image
    network.to(images.device, images.dtype)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR)
    labels = torch.arange(len(images), device=images.device) % 10

    def run(images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Contender(run, images, labels)
