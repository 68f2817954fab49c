"""What a spatial transformer adds to the cost of training ResNet-50, measured on this machine.

    python benchmarks/cost.py [--rounds N] [--batch N]

Prints a table in Markdown: forward and backward passes of `resnet50` and of its twins of the
imagenet recipe, taken in turns, and the multiply-adds of a forward pass, from which the time on a
GPU can be estimated. Nothing is trained and no images are needed. Some 5 minutes on one core.
"""

import argparse
import dataclasses
import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from stn.models import PartsNetwork, PartsSpec, count_parameters
from stn.recipes.imagenet import IMAGENET_MODELS, network

SIDES_PX = (224, 112)
CLASSES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each network")
    parser.add_argument("--batch", type=int, default=8, help="images in a step")
    given = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, CPU, {threads} threads, batch {given.batch}, medians of")
    print(f"{given.rounds} turns; in brackets the quartiles\n")
    print("| px | network | parameters | multiply-adds, G | more | images/s | time over plain |")
    print("|--:|---|--:|--:|--:|--:|--:|")
    for side in SIDES_PX:
        specs = [network(name, side, CLASSES) for name in IMAGENET_MODELS]
        for row in rows(specs, given.rounds, given.batch):
            print(f"| {side} | {row} |", flush=True)
    print("\nthe warp alone, in the transformer of st-resnet50, forward and backward:")
    for side in SIDES_PX:
        ms = warp_ms(network("st-resnet50", side, CLASSES), given.rounds, given.batch)
        print(f"{side} px: {ms:.1f} ms an image")


def rows(specs: list[PartsSpec], rounds: int, batch: int) -> list[str]:
    """The cells of each network; the first is the plain one."""
    side = specs[0].shape[-1]
    images, labels = torch.rand(batch, 3, side, side), torch.randint(CLASSES, (batch,))
    models = [built(spec) for spec in specs]
    seconds = [[step_s(model, images, labels)] for model in models]  # a warm-up, thrown away
    for _ in range(rounds):
        for model, taken in zip(models, seconds, strict=True):
            taken.append(step_s(model, images, labels))
    turns = [taken[1:] for taken in seconds]
    work = [multiply_adds(model, side) for model in models]
    cells = []
    for name, model, mine, taken in zip(IMAGENET_MODELS, models, work, turns, strict=True):
        ratios = [100 * (a / b - 1) for a, b in zip(taken, turns[0], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        more = f"{100 * (mine / work[0] - 1):+.1f} %" if model is not models[0] else ""
        over = f"{middle:+.1f} % ({low:+.1f} to {high:+.1f})" if model is not models[0] else ""
        rate = batch / statistics.median(taken)
        work_g, weights = mine / 1e9, count_parameters(model)
        cells.append(f"{name} | {weights:,} | {work_g:.3f} | {more} | {rate:.2f} | {over}")
    return cells


def built(spec: PartsSpec) -> PartsNetwork:
    """In training mode; its transformers are turned off the identity, as in a trained network."""
    torch.manual_seed(0)
    model = spec.build()
    for name, weight in model.named_parameters():
        if name.startswith("transformer") and not weight.any():
            torch.nn.init.normal_(weight, std=0.01)
    return model


def step_s(model: PartsNetwork, images: torch.Tensor, labels: torch.Tensor) -> float:
    """A forward and a backward pass."""
    model.zero_grad()
    begun = time.perf_counter()
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    return time.perf_counter() - begun


def multiply_adds(model: PartsNetwork, side: int) -> float:
    """Of convolutions and linear layers, an image, forward; sampling is not counted."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.rand(2, 3, side, side))
    return counter.get_total_flops() / 2 / 2


def warp_ms(spec: PartsSpec, rounds: int, batch: int) -> float:
    """What is left of the transformer's time without its localization's, an image."""
    transformer = built(dataclasses.replace(spec, classes=2)).transformer
    assert transformer is not None
    images = torch.rand(batch, *spec.shape)
    whole, seen = [], []
    for _ in range(rounds):
        for taken, run in ((whole, transformer), (seen, transformer.theta)):
            begun = time.perf_counter()
            run(images).square().sum().backward()
            taken.append(time.perf_counter() - begun)
    return 1000 * statistics.median(a - b for a, b in zip(whole, seen, strict=True)) / batch


if __name__ == "__main__":
    main()
