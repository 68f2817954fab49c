"""Results as Markdown: goals and gates, every rival, memory, losses, and who did not take part."""

from collections.abc import Iterable, Sequence
from statistics import geometric_mean

from .cases import CASES, DIRECTIONS, TABLE
from .results import Key, key_of

LABELS = {
    "torch": "torch",
    "torch.compile": "torch.compile",
    "stn.compile": "stn under torch.compile",
    "kornia": "kornia",
    "monai": "MONAI",
    "interpol": "torch-interpol",
    "opencv": "OpenCV",
    "plain": "not antialiased",
}
KNOWN = {case.name: case for case in CASES}
SHORT = ("", "warp")  # kinds that go without saying

Groups = dict[Key, dict[str, dict]]


def markdown(data: dict) -> str:
    """All tables of a results file."""
    groups: Groups = {}
    for row in data["rows"]:
        groups.setdefault(key_of(row), {})[row["contender"]] = row
    order = {name: index for index, name in enumerate(KNOWN)}
    groups = dict(sorted(groups.items(), key=lambda item: order.get(item[0].case, len(order))))
    parts = (
        _machine(data),
        _goals(groups),
        _rivals(groups),
        _losses(groups),
        _memory(groups),
        _remarks(groups),
    )
    return "\n\n".join(part for part in parts if part)


def speedups(groups: Groups, names: Iterable[str], direction: str, threads: int) -> list[float]:
    """stn's speed-ups over the baseline, of the cases that have one."""
    found = (groups.get(Key(name, direction, threads), {}).get("stn", {}) for name in names)
    return [row["ratio"] for row in found if "ratio" in row]


def threads_of(groups: Groups) -> list[int]:
    return sorted({key.threads for key in groups})


def table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int) -> str:
    """A Markdown table whose first `texts` columns are words and the others numbers."""
    marks = "|".join(["---"] * texts + ["--:"] * (len(head) - texts))
    lines = [f"| {' | '.join(head)} |", f"|{marks}|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def _title(name: str) -> str:
    case = KNOWN.get(name)
    if case is None:
        return name
    return case.title if case.kind in SHORT else f"{case.kind} {case.title}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}" if value >= 10 else f"{value:.2f}"


def _ratio(value: float) -> str:
    return f"**{_number(value)}**" if value < 1 else _number(value)


def _machine(data: dict) -> str:
    machine = data["machine"]
    stamps = [row for row in data["rows"] if row["contender"] == "stn"]
    commits = ", ".join(dict.fromkeys(str(row["commit"]) for row in stamps))
    backends = ", ".join(dict.fromkeys(row["backend"] for row in stamps))
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    variables = [f"{name}={value}" for name, value in machine["environment"].items()]
    quick = " Quick and rough: few samples." if machine.get("quick") else ""
    return (
        f"{machine['name']}, {machine['cores']} cores ({', '.join(machine['isa'])}); torch "
        f"{machine['torch']}; {libraries}; "
        f"{'; '.join([f'commit {commits}', f'backend {backends}', *variables])}.{quick}"
    )


def _goals(groups: Groups) -> str:
    rows = []
    for name in dict.fromkeys(key.case for key in groups):
        for threads in threads_of(groups):
            found = {
                key.direction: group["stn"]
                for key, group in groups.items()
                if (key.case, key.threads) == (name, threads) and group["stn"].get("goal")
            }
            if found:
                rows.append([_title(name), str(threads), *_goal_cells(found)])
    means = [[f"**geometric mean of the {len(TABLE)} warps**", str(n), *_means(groups, n)]
             for n in threads_of(groups)]  # fmt: skip
    rows += [row for row in means if any(row[2:])]
    head = ("B, C, size", "threads", "forward", "theta", "both", "goal", "gate", "passed")
    return "### Speed-up over the baseline\n\n" + table(head, rows, 1) if rows else ""


def _goal_cells(found: dict[str, dict]) -> list[str]:
    found = {"both" if name == "step" else name: row for name, row in found.items()}
    directions = [direction for direction in DIRECTIONS if direction in found]

    def listed(field: str) -> str:
        values = [found[direction].get(field) for direction in directions]
        return "; ".join("-" if value is None else f"{value:g}" for value in values)

    missed = [d for d in directions if found[d]["passed"] is False]
    judged = any(found[d]["passed"] is not None for d in directions)
    verdict = f"no: {', '.join(missed)}" if missed else "yes" if judged else "-"
    cells = [_ratio(row["ratio"]) if "ratio" in (row := found.get(d, {})) else ""
             for d in DIRECTIONS]  # fmt: skip
    return [*cells, listed("goal"), listed("gate"), verdict]


def _means(groups: Groups, threads: int) -> list[str]:
    names = [case.name for case in TABLE]
    cells = []
    for direction in DIRECTIONS:
        values = speedups(groups, names, direction, threads)
        cells.append(_ratio(geometric_mean(values)) if len(values) == len(names) else "")
    return [*cells, "", "", ""] if any(cells) else [""] * 6


def _times(group: dict[str, dict]) -> dict[str, float]:
    """stn's speed-up over each rival that was timed."""
    own = group["stn"].get("median_s")
    return {
        name: row["median_s"] / own
        for name, row in group.items()
        if own and "median_s" in row and name != "stn"
    }


def _rivals(groups: Groups) -> str:
    timed = {key: _times(group) for key, group in groups.items() if key.direction != "memory"}
    names = [name for name in LABELS if any(name in times for times in timed.values())]
    pairs = dict.fromkeys((key.case, key.direction) for key in timed)
    rows = []
    for case, direction in pairs:
        keys = [key for key in timed if key[:2] == (case, direction)]
        keys.sort(key=lambda key: key.threads)
        own = [groups[key]["stn"].get("median_s") for key in keys]
        cells = [[timed[key].get(name) for key in keys] for name in names]
        bound = [1 / timed[key]["copy"] if "copy" in timed[key] else None for key in keys]
        shown = [_joined(values, _ratio) for values in cells]
        ms = _joined([None if s is None else s * 1e3 for s in own], _number)
        rows.append([_title(case), direction, ms, *shown, _joined(bound, _number)])
    counts = " / ".join(map(_threads, threads_of(groups)))
    head = ["B, C, size", "direction", "stn, ms", *(LABELS[n] for n in names), "over the bound"]
    if not rows:
        return ""
    title = f"### Time of the others over that of stn, {counts}"
    return f"{title}\n\n" + table(head, rows, 2)


def _joined(values: Sequence[float | None], show) -> str:
    if all(value is None for value in values):
        return ""
    return " / ".join("-" if value is None else show(value) for value in values)


def _losses(groups: Groups) -> str:
    """Where somebody else takes less time."""
    compared = [
        (key, name, ratio)
        for key, group in groups.items()
        for name, ratio in _times(group).items()
        if name in LABELS and name != "plain"
    ]
    lost: dict[tuple[str, str], dict[str, list[str]]] = {}
    for key, name, ratio in compared:
        if ratio < 1:
            words = f"{ratio:.2f} ({_threads(key.threads)})"
            lost.setdefault(key[:2], {}).setdefault(name, []).append(words)
    lines = [
        f"* {_title(case)}, {direction}: "
        + "; ".join(f"{LABELS[name]} {', '.join(words)}" for name, words in names.items())
        for (case, direction), names in lost.items()
    ]
    count = sum(ratio < 1 for _, _, ratio in compared)
    head = f"### Losses: stn takes longer in {count} of {len(compared)} comparisons"
    return "\n".join([head, "", *lines]).strip() if compared else ""


def _threads(number: int) -> str:
    return f"{number} thread{'s' * (number > 1)}"


def _memory(groups: Groups) -> str:
    found = {key: group for key, group in groups.items() if key.direction == "memory"}
    names = [
        n for n in ("stn", *LABELS) if any("extra_bytes" in g.get(n, {}) for g in found.values())
    ]
    rows = []
    for key, group in found.items():
        sizes = [group.get(name, {}).get("extra_bytes") for name in names]
        sizes.insert(0, group["stn"]["needed_bytes"])
        shown = ["-" if size is None else _number(size / 1e6) for size in sizes]
        rows.append([_title(key.case), *shown])
    head = ["B, C, size", "output and gradients", *(LABELS.get(name, name) for name in names)]
    title = "### Peak memory of forward and backward beyond the inputs, MB"
    return f"{title}\n\n" + table(head, rows, 1) if names else ""


def _remarks(groups: Groups) -> str:
    """Who was not timed or measured and why, and yardsticks."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for key, group in groups.items():
        for name, row in group.items():
            if row.get("reason"):
                words = LABELS.get(name, name), row["reason"]
                found.setdefault(words, {})[f"{key.case} {key.direction}"] = None
    lines = []
    for (name, reason), where in found.items():
        listed = ", ".join(where) if len(where) <= 4 else f"{len(where)} measurements"
        lines.append(f"* {name} {reason} ({listed})")
    return "\n".join(["### Who did not take part, and why", "", *lines]) if lines else ""
