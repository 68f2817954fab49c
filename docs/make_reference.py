"""Write the reference pages from docstrings: python docs/make_reference.py [docs folder].

They are made before the site is built, and not kept: the docstrings are the source.
"""

import importlib
import inspect
import re
import sys
import typing
from pathlib import Path

MODULES = ("stn", "stn.nn", "stn.viz", "stn.data", "stn.export")
FIRST = ("stn.transforms", "Transform")  # what every transform can do
SECTIONS = ("Args", "Shape", "Returns", "Raises", "Note", "Example", "Reference")
TITLE = re.compile(rf"^({'|'.join(SECTIONS)}):\s*$")
ENTRY = re.compile(r"^(\*{0,2}\w[\w, *.]*):\s+(.*)$")
LINE = 100


def page_of(module: str) -> str:
    return f"{module.rpartition('.')[2]}.md"


def plain(text: str) -> str:
    """Text whose signs Markdown must not read, but for what stands in `code`."""
    parts = re.split(r"(``?[^`]+``?)", text)
    return "".join(p if n % 2 else re.sub(r"([*_<\[\]|])", r"\\\1", p) for n, p in enumerate(parts))


def listed(lines: list[str]) -> list[str]:
    """`name: what it is` lines, which may go on indented, as a list."""
    out = []
    for line in lines:
        found = None if line.startswith(" ") else ENTRY.match(line)
        if found:
            names = ", ".join(f"`{name.strip()}`" for name in found[1].split(","))
            out.append(f"* {names}: {plain(found[2])}")
        elif line.startswith(" "):
            out.append(f"  {plain(line.strip())}")
        else:
            out += [f"* {plain(line)}"] if line else []
    return out


def section(title: str, lines: list[str]) -> list[str]:
    body = inspect.cleandoc("\n".join(lines)).splitlines()
    if title == "Example":
        return ["**Example**", "", "```pycon", *body, "```", ""]
    shown = listed(body) if title in ("Args", "Raises") else [plain(line) for line in body]
    return [f"**{title}**", "", *shown, ""]


def markdown(doc: str) -> list[str]:
    """A docstring in the house's style, as Markdown."""
    out, title, held = [], None, []
    for line in [*doc.splitlines(), "Args:"]:
        found = TITLE.match(line)
        if found is None:
            held.append(line)
            continue
        out += section(title, held) if title else paragraphs(held)
        title, held = found[1], []
    return out


def paragraphs(lines: list[str]) -> list[str]:
    """Running text; fields `name: meaning` at its left edge become a list, formulas stay code."""
    out = []
    for block in "\n".join(lines).strip().split("\n\n"):
        rows = block.splitlines()
        if all(row.startswith("    ") for row in rows):
            out += rows
        elif rows and len(rows[0].split(":")[0].split()) == 1 and ENTRY.match(rows[0]):
            out += listed(rows)
        else:
            out += [plain(row.strip()) for row in rows]
        out.append("")
    return out


def signature(name: str, thing: object) -> str:
    """name(arguments), one to a line where they are many."""
    try:
        found = inspect.signature(thing)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return name
    kept = [p for p in found.parameters.values() if p.name != "self"]
    line = f"{name}{found.replace(parameters=kept)}"
    if len(line) > LINE:
        parts = [str(p) for p in kept]
        star = next((n for n, p in enumerate(kept) if p.kind is p.KEYWORD_ONLY), None)
        if star is not None:
            parts.insert(star, "*")
        line = f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + ")"
    return re.sub(r"\b(torch|collections\.abc|pathlib|typing)\.(?=[A-Z])", "", line)


def entry(name: str, thing: object) -> list[str]:
    """One name: heading, signature, docstring, and the methods that it brings."""
    out = [f"## {name.rpartition('.')[2]}", "", "```text", signature(name, thing), "```", ""]
    out += markdown(inspect.getdoc(thing) or "")
    for method, found in vars(thing).items() if inspect.isclass(thing) else ():
        hook = method.startswith("_") or method.endswith("_at")
        if not hook and inspect.isfunction(found) and found.__doc__:
            called = signature(method, found)
            out += [f"### {name.rpartition('.')[2]}.{method}", "", "```text", called, "```", ""]
            out += markdown(inspect.getdoc(found) or "")
    return out


def page(module: str) -> str:
    found = importlib.import_module(module)
    out = [f"# {module}", "", plain(inspect.getdoc(found) or ""), ""]
    if module == "stn":
        owner, name = FIRST
        out += entry(f"{owner}.{name}", getattr(importlib.import_module(owner), name))
    for name in sorted(found.__all__, key=str.lower):
        thing = getattr(found, name)
        if inspect.isroutine(thing) or inspect.isclass(thing) or typing.get_origin(thing):
            out += entry(f"{module}.{name}", thing)
    return "\n".join(out).rstrip() + "\n"


def main(docs: Path) -> None:
    folder = docs / "reference"
    folder.mkdir(exist_ok=True)
    for module in MODULES:
        (folder / page_of(module)).write_text(page(module), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
