"""The documentation is true: its code runs, its links and pictures exist."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import tyro

from stn.cli import Command

ROOT = Path(__file__).parent.parent
MADE = ROOT / "docs" / "reference"  # from docstrings, when the site is built
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [path for path in PAGES if MADE not in path.parents]
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
            place = (path.parent / target.partition("#")[0]).resolve()
            assert place.exists() or MADE in place.parents, target


def commands(text):
    """The `stn …` lines of console blocks and of indented ones."""
    text = text.replace("\\\n", " ")
    blocks = [code for _, language, code in code_blocks(text) if language in ("console", "sh")]
    lines = "\n".join(blocks).splitlines() + re.findall(r"^    (stn .*)$", text, re.MULTILINE)
    found = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [way for words in found if words[:1] == ["stn"] for way in ways(words[1:])]


def ways(words):
    """`reproduce cluttered | all` says two commands."""
    if "|" not in words:
        return [words]
    first = words.index("|") - 1
    return [[*words[:first], word] for word in words[first:] if word != "|"]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_commands_are_understood(path):
    for words in commands(path.read_text(encoding="utf-8")):
        tyro.cli(Command, prog="stn", args=words, console_outputs=False)


def test_commands_are_found_and_can_be_wrong():
    text = (ROOT / "docs" / "own-images.md").read_text(encoding="utf-8")
    assert ["train", "--data", "photos"] in commands(text)
    assert ways(["a", "b", "|", "c"]) == [["a", "b"], ["a", "c"]]
    with pytest.raises(SystemExit):
        tyro.cli(Command, prog="stn", args=["train", "--dta", "photos"], console_outputs=False)


def test_registration_shows_what_the_examples_printed():
    text = (ROOT / "docs" / "register.md").read_text(encoding="utf-8")
    printed = sorted((ROOT / "docs" / "registration").glob("*.txt"))
    assert [path.stem for path in printed] == ["fashion", "graf"]
    for path in printed:
        assert f"```text\n{path.read_text(encoding='utf-8').rstrip()}\n```" in text


@pytest.mark.parametrize("script", ["draw_guides", "draw_transform_pages", "draw_transforms"])
def test_pictures_that_are_drawn_are_there(script, tmp_path):
    runpy.run_path(str(ROOT / "docs" / f"{script}.py"))["main"](tmp_path)
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn
    for name in drawn:
        assert (ROOT / "docs" / "images" / name).exists()


def test_every_target_of_make_is_there_once():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    rules = re.findall(r"^([\w-]+):(?!=)", text, re.MULTILINE)
    for target in re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split():
        assert rules.count(target) == 1, target


def test_contributing_shows_every_floor():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d \|(.*)\|$", text, re.MULTILINE)
    named = {re.sub(r"/$|\.py$", "", word) for row in rows for word in re.findall(r"`(.*?)`", row)}
    parts = {path.stem for path in (ROOT / "src" / "stn").iterdir()} - {"__init__", "__pycache__"}
    assert parts <= named
    assert named - parts == {"native"}


def test_pictures_can_be_drawn_again(tmp_path):
    script = runpy.run_path(str(ROOT / "docs" / "draw_conventions.py"))
    script["main"](tmp_path)
    drawn = sorted(path.name for path in tmp_path.iterdir())
    text = (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")
    assert drawn == sorted(re.findall(r"images/([\w.-]+)\)", text))
    for name in drawn:
        assert (ROOT / "docs" / "images" / name).exists()
