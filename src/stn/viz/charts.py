"""Line charts as inline SVG, coloured by the page's style sheet, light or dark."""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 400, 270
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 40
SMALL_WIDTH, SMALL_HEIGHT, BARS = 140, 60, 28
COLOURS, DASHES = 8, 4
MOST_LINES = COLOURS * DASHES  # in a chart
# Longer lines have no marks at their points.
MARKED = 60


class Line(NamedTuple):
    """One run: its name and its points, x ascending, both finite."""

    name: str
    points: list[tuple[float, float]]


def series_class(index: int) -> str:
    """Classes of the index-th line, a colour and a dash; those of `MOST_LINES` differ."""
    return f"c{index % COLOURS} d{(index + index // COLOURS) % DASHES}"


def legend(names: Sequence[str]) -> str:
    """The names with a stroke as drawn."""
    rows = "".join(
        '<li><svg viewBox="0 0 32 8" aria-hidden="true">'
        f'<line class="series {series_class(i)}" x1="0" y1="4" x2="32" y2="4"/></svg>'
        f"{html.escape(name)}</li>"
        for i, name in enumerate(names)
    )
    return f'<ul class="legend">{rows}</ul>'


def line_chart(lines: Sequence[Line], x_label: str, y_label: str) -> str:
    """An <svg> of all lines against common axes, y logarithmic unless a value is 0 or less."""
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    ys = [y for _, y in points]
    log = min(ys) > 0
    low, high = (min(ys) / 1.15, max(ys) * 1.15) if log else (min(*ys, 0.0), max(*ys, 0.0))
    if low == high:  # all are zero
        high = 1.0
    right = max(x for x, _ in points) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        across = x / right
        up = math.log(y / low) / math.log(high / low) if log else (y - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (
            HEIGHT - TOP - BOTTOM
        )

    label = f"{y_label} against {x_label} of {', '.join(line.name for line in lines)}"
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(label)}">'
    ]
    for tick in log_ticks(low, high) if log else linear_ticks(low, high):
        y = place(0, tick)[1]
        parts.append(
            f'<line class="rule" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    for tick in linear_ticks(0, right):
        x = place(tick, low if log else 0.0)[0]
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">'
            f"{short_number(tick)}</text>"
        )
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" text-anchor="middle">'
        f"{html.escape(x_label)}</text>"
    )
    for i, line in enumerate(lines):
        places = [(x, y, *place(x, y)) for x, y in line.points]
        drawn = " ".join(f"{across:.1f},{down:.1f}" for _, _, across, down in places)
        parts.append(f'<g class="series {series_class(i)}"><polyline points="{drawn}"/>')
        for x, y, across, down in places if len(places) <= MARKED else ():
            told = html.escape(f"{line.name}: {y:.3g} after {short_number(x)}")
            parts.append(
                f'<circle cx="{across:.1f}" cy="{down:.1f}" r="2.2"><title>{told}</title></circle>'
            )
        parts.append("</g>")
    return "".join([*parts, "</svg>"])


def histogram(values: Sequence[float], name: str) -> str:
    """A small <svg> of how often each value occurs, the middle 99 % of them."""
    ordered = sorted(value for value in values if math.isfinite(value))
    cut = len(ordered) // 200
    kept = ordered[cut : len(ordered) - cut]
    if not kept:
        return ""
    low, high = kept[0], kept[-1]
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    counts = [0] * BARS
    for value in kept:
        counts[min(int((value - low) / (high - low) * BARS), BARS - 1)] += 1
    wide = SMALL_WIDTH / BARS
    bars = "".join(
        f"M{i * wide:.1f} {SMALL_HEIGHT}v{-SMALL_HEIGHT * count / max(counts):.1f}h{wide - 0.5:.1f}"
        f"V{SMALL_HEIGHT}z"
        for i, count in enumerate(counts)
        if count
    )
    zero = ""
    if low < 0 < high:
        x = -low / (high - low) * SMALL_WIDTH
        zero = f'<line class="zero" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{SMALL_HEIGHT}"/>'
    label = html.escape(f"{name}: from {low:.2g} to {high:.2g}")
    return (
        f'<svg class="bars" viewBox="0 0 {SMALL_WIDTH} {SMALL_HEIGHT + 16}" role="img" '
        f'aria-label="{label}"><path d="{bars}"/>{zero}'
        f'<text x="0" y="{SMALL_HEIGHT + 13}">{low:.2g}</text>'
        f'<text x="{SMALL_WIDTH}" y="{SMALL_HEIGHT + 13}" text-anchor="end">{high:.2g}</text></svg>'
    )


def log_ticks(low: float, high: float) -> list[float]:
    """About two to seven round numbers in [low, high], 0 < low < high."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5), tuple(range(1, 10))):
        ticks = [d * 10.0**p for p in powers for d in digits if low <= d * 10.0**p <= high]
        if len(ticks) >= 3:
            return ticks
    return linear_ticks(low, high)


def linear_ticks(low: float, high: float) -> list[float]:
    """Four or so multiples of a round step in [low, high]."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(d * power for d in (1, 2, 2.5, 5, 10) if d * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.6g}") for i in range(first, last + 1)]


def short_number(value: float) -> str:
    """12000 as 12k, 3400000 as 3.4M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
