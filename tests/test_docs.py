"""The documentation is true: its code runs, its links and pictures exist."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name_of(path):
    return str(path.relative_to(ROOT))


def code_blocks(text):
    """(line, language, code) of every fenced block."""
    for match in FENCE.finditer(text):
        yield text[: match.start(2)].count("\n"), match[1].strip(), match[2]


def test_there_are_pages():
    assert ROOT / "docs" / "conventions.md" in PAGES


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_code_runs(path, tmp_path, monkeypatch):
    """All blocks of a page in order, in one namespace, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "__main__"}
    for line, language, code in code_blocks(path.read_text(encoding="utf-8")):
        assert language.split()[:1] != ["python"] or language == "python", f"{line}: {language}"
        if language == "python":
            # Blank lines in front keep the page's line numbers in tracebacks.
            exec(compile("\n" * line + code, str(path), "exec"), space)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path):
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (path.parent / target.partition("#")[0]).exists(), target


def test_pictures_can_be_drawn_again(tmp_path):
    script = runpy.run_path(str(ROOT / "docs" / "draw_conventions.py"))
    script["main"](tmp_path)
    drawn = sorted(path.name for path in tmp_path.iterdir())
    text = (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")
    assert drawn == sorted(re.findall(r"images/([\w.-]+)\)", text))
    for name in drawn:
        assert (ROOT / "docs" / "images" / name).exists()
