"""The documentation site builds strictly, and everything it links to is in it."""

import html.parser
import inspect
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

import stn
from stn.transforms import Transform

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FROM_DOCSTRINGS = runpy.run_path(str(DOCS / "make_reference.py"))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(DOCS, folder / "docs", ignore=shutil.ignore_patterns("reference"))
    shutil.copy(ROOT / "zensical.toml", folder)
    FROM_DOCSTRINGS["main"](folder / "docs")
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_every_page_is_in_the_navigation():
    settings = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    listed = re.findall(r'" = "([\w./-]+\.md)"', settings)
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    made = {f"reference/{FROM_DOCSTRINGS['page_of'](m)}" for m in FROM_DOCSTRINGS["MODULES"]}
    assert sorted(listed) == sorted(pages | made)


def test_every_transform_has_a_page_that_shows_it():
    text = "".join(p.read_text(encoding="utf-8") for p in (DOCS / "transforms").glob("*.md"))
    families = {
        name
        for name in stn.__all__
        if inspect.isclass(found := getattr(stn, name)) and issubclass(found, Transform)
    }
    shown = {name for name in families if f"# {name}\n\n" in text and f"stn.{name}(" in text}
    assert shown == families
    for name in families:
        assert f"](../images/transform-{name}.png)" in text
        assert (DOCS / "images" / f"transform-{name}.png").exists()


class Links(html.parser.HTMLParser):
    """What a page links to (`href`) and what it loads (`src`, and `href` of <link>)."""

    def __init__(self, text: str):
        super().__init__()
        self.targets, self.loaded, self.names = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.names |= {found[key] for key in ("id", "name") if found.get(key)}
        target = found.get("src") or found.get("href")
        if target and (tag != "a" or "src" in found):
            self.loaded.append(target)
        elif target:
            self.targets.append(target)


def is_elsewhere(target: str) -> bool:
    return target.startswith(("http:", "https:", "//", "data:", "mailto:"))


def test_links_pictures_and_anchors_are_there(site):
    pages = {p: Links(p.read_text(encoding="utf-8")) for p in site.rglob("*.html")}
    assert len(pages) > 30
    broken = []
    for path, links in pages.items():
        for target in links.targets + links.loaded:
            if is_elsewhere(target) or path.name == "404.html":
                continue
            place, _, anchor = unquote(target).partition("#")
            there = (path.parent / place.partition("?")[0]).resolve() if place else path
            there = there / "index.html" if there.is_dir() else there
            if not there.exists() or (anchor and anchor not in pages[there].names):
                broken.append(f"{path.relative_to(site)}: {target}")
    assert not broken


def test_nothing_is_loaded_from_elsewhere(site):
    for path in site.rglob("*.html"):
        loaded = Links(path.read_text(encoding="utf-8")).loaded
        assert not [target for target in loaded if is_elsewhere(target) and target[:5] != "data:"]


def test_a_broken_link_stops_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# A page\n\n[gone](gone.md)\n")
    (tmp_path / "zensical.toml").write_text('[project]\nsite_name = "a"\n')
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=240).returncode != 0


def test_docstrings_become_markdown():
    made = "\n".join(FROM_DOCSTRINGS["entry"]("stn.warp", stn.warp))
    assert "* `theta`: (B, P) with P = transform.num\\_params;" in made
    assert "```pycon\n>>> image = torch.rand(2, 3, 28, 28)\n" in made
    assert made.count("**Args**") == made.count("**Example**") == 1
    for module in FROM_DOCSTRINGS["MODULES"]:
        for name in sys.modules[module].__all__:
            if inspect.isclass(found := getattr(sys.modules[module], name)):
                assert found.__name__ in FROM_DOCSTRINGS["page"](module)
