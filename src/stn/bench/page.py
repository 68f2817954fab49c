"""The page: tables and a picture, made from a results file alone."""

from pathlib import Path
from typing import Any

from ..recipes import fill_in
from ..training import write_atomically
from .cases import DIRECTIONS, TABLE
from .machine import kind_of
from .results import Key, key_of, read_results
from .tables import markdown

INK, SOFT, RULE = "#1a1c1e", "#555c64", "#b9bfc6"
COLORS = {"forward": "#06305c", "theta": "#0b5cad", "both": "#7fb0dd"}
STYLE: Any = {"svg.hashsalt": "stn", "svg.fonttype": "path", "font.size": 9}


def write_page(results: Path, page: Path) -> list[Path]:
    """Fill a page between <!-- bench-cpu --> and <!-- /bench-cpu --> (or bench-cuda, …).

    The picture goes to the folder of the page's name beside it. Returns what was written.

    Raises:
        ValueError: the page has no such marks.
    """
    data = read_results(results)
    text, written = markdown(data), [page]
    picture = draw(data)
    if picture is not None:
        path = page.with_suffix("") / f"{results.stem}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, picture)
        words = f"Speed-ups of stn over torch on {data['machine']['name']}"
        text = f"![{words}]({path.parent.name}/{path.name})\n\n{text}"
        written.append(path)
    fill_in(page, f"bench-{kind_of(data['machine'])}", text)
    return written


def draw(data: dict) -> bytes | None:
    """Bars of stn's speed-up over torch, SVG; None where no warp of the table was measured."""
    import io

    import matplotlib
    from matplotlib.figure import Figure

    rows = {key_of(row): row for row in data["rows"] if row["contender"] == "stn"}
    rows = {key: row for key, row in rows.items() if "ratio" in row}
    cases = [case for case in TABLE if any(key.case == case.name for key in rows)]
    if not cases:
        return None
    counts = sorted({key.threads for key in rows})
    with matplotlib.rc_context(STYLE):
        width = 4.6 * len(counts) + 0.6
        figure = Figure(figsize=(width, 1 + 0.55 * len(cases)), layout="constrained")
        axes = figure.subplots(1, len(counts), sharex=True, sharey=True, squeeze=False)[0]
        for axis, threads in zip(axes, counts, strict=True):
            for shift, direction in enumerate(DIRECTIONS):
                keys = [Key(case.name, direction, threads) for case in cases]
                values = [rows.get(key, {}).get("ratio", float("nan")) for key in keys]
                goals = [rows.get(key, {}).get("goal") or float("nan") for key in keys]
                places = [index + 0.27 * (shift - 1) for index in range(len(cases))]
                widths = [value - 1 for value in values]
                axis.barh(places, widths, 0.24, 1, color=COLORS[direction], label=direction)
                axis.plot(goals, places, "|", color=SOFT, label="goal" if shift == 2 else None)
            axis.axvline(1, color=INK, lw=0.8)
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter("{x:g}")
            axis.set_yticks(range(len(cases)), [case.title for case in cases])
            axis.set_title(f"threads: {threads}", color=INK)
            axis.set_xlabel("times as fast as affine_grid + grid_sample", color=SOFT)
            axis.grid(axis="x", color=RULE, lw=0.4)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].invert_yaxis()
        axes[0].legend(frameon=False, fontsize=8)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None}, facecolor="white")
    return file.getvalue()
