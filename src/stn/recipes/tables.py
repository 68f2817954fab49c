"""Markdown tables made from published results, and the pages that hold them."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev, variance

from ..training import write_atomically
from .ablations import ABLATIONS
from .colocalization import COLOCALIZER
from .digits import BEST, CONTROLS
from .reproduce import ORDER, PLAIN_AND_TWIN

ERROR = "test_error_percent"
# 97.5 % quantiles of Student's t for 1, 2, … degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def mean_and_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half the width of its 95 % interval, None for fewer than two values."""
    n = len(values)
    if n < 2:
        return mean(values), None
    return mean(values), _student(n - 1) * stdev(values) / math.sqrt(n)


def difference_and_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float | None]:
    """Mean of a less mean of b, and half the width of its 95 % interval by Welch's t.

    Degrees of freedom are rounded down; None where either has fewer than two values.
    """
    found = mean(a) - mean(b)
    if min(len(a), len(b)) < 2:
        return found, None
    parts = [variance(values) / len(values) for values in (a, b)]
    if not sum(parts):
        return found, 0.0
    each = sum(part**2 / (len(x) - 1) for part, x in zip(parts, (a, b), strict=True))
    return found, _student(int(sum(parts) ** 2 / each)) * math.sqrt(sum(parts))


def _student(freedom: int) -> float:
    return STUDENT[min(freedom, len(STUDENT)) - 1]


def error_table(rows: Iterable[dict], names: Sequence[str], which: str = ERROR) -> str:
    """Errors, models down, recipes (without "mnist-") across; the paper's in brackets."""
    return _grid([row for row in rows if which in row], names, lambda own: _cell(own, which))


def gain_table(rows: Iterable[dict], names: Sequence[str], plain: str = "cnn") -> str:
    """How many more errors the plain net makes than each other, points, with 95 % intervals."""
    rows = list(rows)
    base: dict[str, list[float]] = {}
    for row in rows:
        if row["model"] == plain:
            base.setdefault(row["recipe"], []).append(row[ERROR])
    others = [row for row in rows if row["model"] != plain and row["recipe"] in base]

    def shown(own: list[dict]) -> str:
        errors = [row[ERROR] for row in own]
        return _told(difference_and_interval(base[own[0]["recipe"]], errors), 2)

    return _grid(others, names, shown)


def weight_table(rows: Iterable[dict], names: Sequence[str]) -> str:
    """Parameters, models down, recipes across."""
    return _grid(rows, names, lambda own: f"{own[0]['parameters']:,}")


def best_table(rows: Iterable[dict]) -> str:
    """Best transformer nets, with the best published error and whether the whole interval is below.

    Of several nets tried on a set, that with the lowest held-out error is shown.
    """
    lines = []
    rows = list(rows)
    for name in BEST:
        tried: dict[str, list[dict]] = {}
        for row in rows:
            if row["recipe"] == f"mnist-{name}" and "st-" in row["model"]:
                tried.setdefault(row["model"], []).append(row)
        if not tried:
            continue
        model, own = min(
            tried.items(), key=lambda pair: mean(row["held_out_error_percent"] for row in pair[1])
        )
        centre, half = mean_and_interval([row[ERROR] for row in own])
        published = own[0]["paper_error_percent"]
        beaten = half is not None and centre + half < published
        lines.append(
            [
                name.upper() if len(name) < 4 else name,
                model,
                f"{own[0]['parameters']:,}",
                str(len(own)),
                _error(own),
                f"{published:.2f}",
                "yes" if beaten else "no" if half is not None else "one seed tells nothing",
            ]
        )
    head = ["set", "model", "parameters", "seeds", "error, %", "best published", "beaten"]
    return _table(head, lines, words=2)


def control_table(rows: Iterable[dict]) -> str:
    """Errors of the best transformer nets and of their classifiers alone, where those were run."""
    rows = list(rows)
    found = {(row["recipe"], row["model"]) for row in rows}
    names = [name for name, plain in CONTROLS.items() if (f"mnist-{name}", plain) in found]
    pairs = {(f"mnist-{name}", model) for name in names for model in (BEST[name], CONTROLS[name])}
    return error_table([row for row in rows if (row["recipe"], row["model"]) in pairs], names)


def pose_table(rows: Iterable[dict]) -> str:
    """Spread of the digits' poses before and after each transformer; first seeds that have one."""
    lines, first = [], {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        if "after" in (row.get("pose") or {}):
            first.setdefault((row["recipe"], row["model"]), row)
    for _, row in sorted(first.items()):
        pose = row["pose"]
        before, after = pose["before"], pose["after"]
        spans = [
            f"{before[key]:.{digits}f} → {after[key]:.{digits}f}"
            for key, digits in (("angle_deg", 0), ("scale", 2), ("centre_px", 1))
        ]
        lines.append([row["recipe"].removeprefix("mnist-").upper(), row["model"], *spans])
    lines.sort(key=lambda line: ORDER.index(line[1]))
    return _table(["set", "model", "angle, °", "log scale", "centre, px"], lines, words=2)


def ablation_table(rows: Iterable[dict]) -> str:
    """One changed choice a line: errors, and the spread of the pose that is left; first seed's."""
    lines = []
    rows = list(rows)
    for variant, (text, _, _) in ABLATIONS.items():
        own = [row for row in rows if row["variant"] == variant]
        if not own:
            continue
        pose = min(own, key=lambda row: row["seed"])["pose"]
        pose = pose.get("after", pose["before"])
        lines.append(
            [
                text,
                _error(own, "held_out_error_percent"),
                _error(own),
                f"{pose['angle_deg']:.0f}",
                f"{pose['centre_px']:.1f}",
            ]
        )
    return _table(["changed", "held-out, %", "test, %", "angle, °", "centre, px"], lines)


def part_table(rows: Iterable[dict]) -> str:
    """Addition: what each transformer does to each digit's place; first seeds."""
    lines = []
    for row in rows:
        if row["recipe"] != "mnist-addition" or row["seed"]:
            continue
        for name, spread in (row.get("pose") or {}).items():
            if name.startswith("after"):
                numbers = [f"{spread[key]:.1f}" for key in ("angle_deg", "centre_px")]
                lines.append([row["model"], name.removeprefix("after").strip(), *numbers])
    lines.sort(key=lambda line: ORDER.index(line[0]))
    return _table(["model", "which", "angle, °", "centre, px"], lines, words=2)


def window_table(rows: Iterable[dict]) -> str:
    """How often some window holds a part whole, %, trained and before; how far windows wander."""
    rows = [row for row in rows if "parts" in row]
    lines = []
    for model in sorted({row["model"] for row in rows}, key=ORDER.index):
        own = [row["parts"] for row in rows if row["model"] == model]
        names = list(own[0]["contained"])
        shares = [
            f"{mean(parts['at_start'][name] for parts in own):.0f} → "
            f"{mean(parts['contained'][name] for parts in own):.0f}"
            for name in names
        ]
        spread = mean(px for parts in own for px in parts["spread_px"])
        lines.append([model, *shares, f"{spread:.1f}"])
    names = list(rows[0]["parts"]["contained"]) if rows else []
    return _table(["model", *(f"{name}, %" for name in names), "wander, px"], lines)


def colocalization_table(rows: Iterable[dict]) -> str:
    """Share of images whose window meets the digit's box by half, %, class by class: of those that
    it was trained on and, where that was measured, of others; of several runs also the mean."""
    groups: dict[str, dict[str, list[float]]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        if row["model"] == COLOCALIZER:
            kind = "with clutter" if row["recipe"].endswith("cluttered") else "without"
            for which, of in (("correct_percent", ""), ("unseen_correct_percent", ", others")):
                if found := row.get(which):
                    seeds = groups.setdefault(f"{kind}{of}", {})
                    seeds[f"seed {row['seed']}"] = [*found, mean(found)]
    lines = []
    for name, seeds in sorted(groups.items()):
        for seed, shares in seeds.items():
            shown = [*(f"{share:.0f}" for share in shares[:-1]), f"{shares[-1]:.1f}"]
            lines.append([f"{name}, {seed}", *shown])
        if len(seeds) > 1:
            columns = zip(*seeds.values(), strict=True)
            lines.append([f"{name}, mean", *(_told(mean_and_interval(c), 1) for c in columns)])
    return _table(["clutter", *map(str, range(10)), "mean"], lines)


def cost_table(rows: Sequence[dict]) -> str:
    """Runs and core-hours of each recipe."""
    lines = []
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        own = [row for row in rows if row["recipe"] == recipe]
        hours = sum(row["seconds"] * row["threads"] for row in own) / 3600
        lines.append([recipe, str(len(own)), f"{hours:.2f}"])
    return _table(["recipe", "runs", "core-hours"], lines)


DIGITS = ("r", "rts", "p", "e", "tc")
STAND_INS = ("street-numbers-64", "street-numbers-128", "creatures")
PARTS: dict[str, Callable[[list[dict]], str]] = {
    "digits": lambda rows: error_table(rows, DIGITS),
    "addition": lambda rows: error_table(rows, ("addition",)),
    "addition-parts": part_table,
    "canvas": lambda rows: error_table(
        [row for row in rows if row["model"] in PLAIN_AND_TWIN], ("p", "p-42")
    ),
    "volumes": lambda rows: error_table(rows, ("volumes",)),
    "stand-ins": lambda rows: error_table(rows, STAND_INS),
    "still": lambda rows: error_table(rows, STAND_INS, "still_error_percent"),
    "gains": lambda rows: gain_table(rows, STAND_INS),
    "weights": lambda rows: weight_table(rows, STAND_INS),
    "windows": window_table,
    "best": best_table,
    "controls": control_table,
    "ablations": ablation_table,
    "colocalization": colocalization_table,
    "pose": pose_table,
    "cost": cost_table,
}


def fill_page(path: Path, column: str, rows: list[dict]) -> list[str]:
    """Fill every place <!-- COLUMN-PART --> that a page has; returns the parts.

    Raises:
        ValueError: the page has none of this column.
    """
    parts = parts_of(path, column)
    for part in parts:
        fill_in(path, f"{column}-{part}", PARTS[part](rows))
    return parts


def parts_of(path: Path, column: str) -> list[str]:
    """The parts of a column that a page has a place for.

    Raises:
        ValueError: it has none.
    """
    page = path.read_text()
    parts = [part for part in PARTS if f"<!-- {column}-{part} -->" in page]
    if not parts:
        raise ValueError(
            f"{path} has no place for the {column} column, such as <!-- {column}-digits --> "
            f"<!-- /{column}-digits -->; the parts are {', '.join(PARTS)}"
        )
    return parts


def fill_in(path: Path, mark: str, text: str) -> None:
    """Replace what stands between <!-- mark --> and <!-- /mark --> in a file."""
    page = path.read_text()
    start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    if start not in page or end not in page:
        raise ValueError(f"{path} has no place for {mark}: it needs {start} and {end}")
    before, _, rest = page.partition(start)
    _, _, after = rest.partition(end)
    write_atomically(path, f"{before}{start}\n{text}\n{end}{after}".encode())


def _grid(rows: Iterable[dict], names: Sequence[str], shown: Callable[[list[dict]], str]) -> str:
    """What is to be shown of the runs of each model, down, on each recipe, across."""
    cells: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        cells.setdefault((row["model"], row["recipe"].removeprefix("mnist-")), []).append(row)
    names = [name for name in names if any(own == name for _, own in cells)]
    models = [model for model in ORDER if any((model, name) in cells for name in names)]
    lines = []
    for model in models:
        runs = (cells.get((model, name)) for name in names)
        lines.append([model, *(shown(own) if own else "" for own in runs)])
    return _table(["model", *(name.upper() if len(name) < 4 else name for name in names)], lines)


def _cell(rows: list[dict], which: str) -> str:
    paper = rows[0]["paper_error_percent"]
    return _error(rows, which) + ("" if paper is None else f" ({paper:.1f})")


def _error(rows: list[dict], which: str = ERROR) -> str:
    return _told(mean_and_interval([row[which] for row in rows]), 2)


def _told(found: tuple[float, float | None], digits: int) -> str:
    centre, half = found
    return f"{centre:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A Markdown table whose first `words` columns are text."""
    marks = "|".join(["---"] * words + ["--:"] * (len(head) - words))
    lines = [f"| {' | '.join(head)} |", f"|{marks}|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])
