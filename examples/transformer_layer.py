"""Put a spatial transformer into a network of your own, and train it to find what matters.

    python examples/transformer_layer.py

One of eight 12 x 12 patterns stands at a random place of a noisy 32 x 32 image; the label says
which, never where. Takes some 15 seconds, and prints the accuracy on new images and what the
diagnostics say: a transformer that mostly samples outside the image has run away.
"""

import torch
from torch import nn

import stn

SIDE, PATTERN, CLASSES = 32, 12, 8


def make_batch(
    count: int, patterns: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (count, 1, 32, 32) and labels."""
    images = 0.2 * torch.rand(count, 1, SIDE, SIDE, generator=generator)
    corners = torch.randint(SIDE - PATTERN + 1, (count, 2), generator=generator)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    for image, (x, y), label in zip(images, corners.tolist(), labels.tolist(), strict=True):
        image[0, y : y + PATTERN, x : x + PATTERN] += patterns[label]
    return images, labels


class Net(nn.Module):
    def __init__(self, look: nn.Module):
        super().__init__()
        self.look = look
        self.classify = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(256, CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.look(x))


def train(net: nn.Module, patterns: torch.Tensor, steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    groups = stn.param_groups(net, lr=3e-3, localization_lr=1e-3)
    optimizer = torch.optim.AdamW(groups)
    peaks = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, steps)
    for _ in range(steps):
        images, labels = make_batch(128, patterns, generator)
        loss = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        schedule.step()


def main(steps: int = 1000) -> None:
    torch.manual_seed(0)
    coarse = (torch.rand(CLASSES, 1, 4, 4) > 0.5).float()
    patterns = nn.functional.interpolate(coarse, size=(PATTERN, PATTERN)).squeeze(1)
    localization = nn.Sequential(  # any module (B, C, H, W) -> (B, F)
        nn.Flatten(), nn.Linear(SIDE * SIDE, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU()
    )
    look = stn.SpatialTransformer(localization, stn.Translation(), num_features=32)
    net = Net(look)
    train(net, patterns, steps)

    net.eval()
    images, labels = make_batch(1000, patterns, torch.Generator().manual_seed(1))
    with torch.no_grad():
        accuracy = (net(images).argmax(-1) == labels).float().mean().item()
        seen = look.inspect(images)  # .output, .theta, .grid
    found = stn.nn.diagnose(look.transform, seen.theta, (SIDE, SIDE))
    print(f"accuracy on new images: {100 * accuracy:.1f} % (chance: {100 / CLASSES:.1f} %)")
    print(f"share of samples outside the image: {found.outside.mean().item():.2f}")


if __name__ == "__main__":
    main()
