"""Straighten a bent picture from a few matching points, with a thin plate spline.

    python examples/straighten_by_points.py

No network: `fit` gives theta from points, `warp` applies it, and its inverse maps points back.
"""

import torch

import stn


def main() -> None:
    # A checkerboard, bent by a known spline.
    y, x = torch.meshgrid(torch.arange(96), torch.arange(128), indexing="ij")
    board = ((x // 16 + y // 16) % 2).float()[None, None]
    spline = stn.ThinPlateSpline((4, 4))
    bend = 0.06 * torch.randn(1, spline.num_params, generator=torch.Generator().manual_seed(0))
    bent = stn.warp(board, spline, bend, padding_mode="border")

    # A point p of the bent picture shows the board at bend(p): pairs as an annotator would click.
    clicked = torch.rand(60, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    true = spline.map_points(bend, clicked)[0]
    # To straighten, each place on the board (target) reads the bent picture (source).
    theta = stn.ThinPlateSpline((6, 6)).fit(target_points=true, source_points=clicked)
    straight = stn.warp(bent, stn.ThinPlateSpline((6, 6)), theta, padding_mode="border")

    inside = (slice(None), slice(None), slice(16, -16), slice(16, -16))
    before = (bent - board)[inside].abs().mean().item()
    after = (straight - board)[inside].abs().mean().item()
    print(f"mean difference from the straight board: {before:.3f} bent, {after:.3f} straightened")

    back = spline.inverse_points(bend, true)
    print(f"points there and back agree to {(back[0] - clicked).abs().max().item():.1e}")


if __name__ == "__main__":
    main()
