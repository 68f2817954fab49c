"""What spatial transformers add to the cost of training a network, measured on this machine.

    python benchmarks/cost.py svhn | imagenet [--rounds N] [--batch N]

Prints a table in Markdown: forward and backward passes of a network of the recipe and of its twins
with transformers, taken in turns, and the multiply-adds of a forward pass, from which the time on a
GPU can be estimated. Nothing is trained and no images are needed. Some 5 minutes on one core.
"""

import argparse
import statistics
import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stn.models import PartsSpec, SvhnSpec, count_parameters
from stn.nn.transformer import ThetaHead, Transformer
from stn.recipes.imagenet import IMAGENET_MODELS, network
from stn.recipes.paper_pictures import SVHN_MODELS

SIDES_PX = {"svhn": (64,), "imagenet": (224, 112)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", choices=SIDES_PX)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each network")
    parser.add_argument("--batch", type=int, default=8, help="images in a step")
    given = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, CPU, {threads} threads, batch {given.batch}, medians of")
    print(f"{given.rounds} turns; in brackets the quartiles\n")
    print("| px | network | parameters | multiply-adds, G | more | images/s | time over plain |")
    print("|--:|---|--:|--:|--:|--:|--:|")
    warps = {}
    for side in SIDES_PX[given.recipe]:
        twins = {name: built(spec) for name, spec in specs(given.recipe, side).items()}
        plain, *_ = twins
        twins[f"{plain}, and the gradient of its images"] = nn.Sequential(Asking(), twins[plain])
        images = torch.rand(given.batch, 3, side, side)
        for row in rows(twins, images, given.rounds):
            print(f"| {side} | {row} |", flush=True)
        warps[side] = {
            name: ms
            for name, model in twins.items()
            if (ms := [warp_ms(*place, given.rounds) for place in places(model, images)])
        }
    print("\nthe warps alone, forward and backward, ms an image:")
    for side, found in warps.items():
        for name, ms in found.items():
            print(f"{side} px, {name}: {', '.join(f'{value:.2f}' for value in ms)}")


class Asking(nn.Module):
    """Asks for the gradient of the images, as a transformer does for its theta."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach().requires_grad_()


def specs(recipe: str, side: int) -> dict[str, PartsSpec | SvhnSpec]:
    """The networks by name; the first is the plain one."""
    if recipe == "svhn":
        return {name: SvhnSpec(name, (3, side, side)) for name in SVHN_MODELS}
    return {name: network(name, side, 1000) for name in IMAGENET_MODELS}


def built(spec: PartsSpec | SvhnSpec) -> nn.Module:
    """In training mode; its transformers are turned off the identity, as in a trained network."""
    torch.manual_seed(0)
    model = spec.build()
    for module in model.modules():
        if isinstance(module, ThetaHead):
            for weight in module.parameters():
                nn.init.normal_(weight, std=0.01)
    return model


def rows(twins: dict[str, nn.Module], images: torch.Tensor, rounds: int) -> list[str]:
    """The cells of each network."""
    models = list(twins.values())
    for model in models:
        step_s(model, images)  # a warm-up
    turns = [[step_s(model, images) for model in models] for _ in range(rounds)]
    work = [multiply_adds(model, images) for model in models]
    cells = []
    for number, (name, model) in enumerate(twins.items()):
        ratios = [100 * (turn[number] / turn[0] - 1) for turn in turns]
        low, middle, high = statistics.quantiles(ratios, n=4)
        more = f"{100 * (work[number] / work[0] - 1):+.1f} %" if number else ""
        over = f"{middle:+.1f} % ({low:+.1f} to {high:+.1f})" if number else ""
        rate = len(images) / statistics.median(turn[number] for turn in turns)
        work_g, weights = work[number] / 1e9, count_parameters(model)
        cells.append(f"{name} | {weights:,} | {work_g:.3f} | {more} | {rate:.2f} | {over}")
    return cells


def step_s(model: nn.Module, images: torch.Tensor) -> float:
    """A forward and a backward pass."""
    model.zero_grad()
    begun = time.perf_counter()
    model(images).logsumexp(-1).mean().backward()
    return time.perf_counter() - begun


def multiply_adds(model: nn.Module, images: torch.Tensor) -> float:
    """Of convolutions and linear layers, an image, forward; sampling is not counted."""
    with FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops() / 2 / len(images)


def places(model: nn.Module, images: torch.Tensor) -> list[tuple[Transformer, torch.Tensor]]:
    """Each transformer of a network, with what it warps there."""
    found: list[tuple[Transformer, torch.Tensor]] = []

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(module, Transformer)
        found.append((module, inputs[0]))

    transformers = [module for module in model.modules() if isinstance(module, Transformer)]
    handles = [module.register_forward_pre_hook(note) for module in transformers]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return found


def warp_ms(transformer: Transformer, images: torch.Tensor, rounds: int) -> float:
    """Forward and backward, to the images and to theta, an image."""
    theta = transformer.theta(images).detach()
    taken = []
    for _ in range(rounds):
        inputs = images.clone().requires_grad_(), theta.clone().requires_grad_()
        begun = time.perf_counter()
        transformer.warp(*inputs).sum().backward()
        taken.append(time.perf_counter() - begun)
    return 1000 * statistics.median(taken) / len(images)


if __name__ == "__main__":
    main()
