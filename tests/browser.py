"""Pages opened in Debian's Chromium without a window, and what every page must keep to."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PHONE, DESKTOP = (390, 844), (1280, 900)
LOCAL_HOSTS = ("127.0.0.1", "localhost", "")
WAIT_MS = 60_000
COUNT_CALLS = """
window.calls = 0;
const ask = window.fetch;
window.fetch = async (...request) => {
  const counts = String(request[0]?.url ?? request[0]).includes("/run/");
  window.calls += counts;
  try {
    const answer = await ask(...request);
    if (counts) await answer.clone().text();
    return answer;
  } finally {
    window.calls -= counts;
  }
};
"""
STILL = "() => (window.frames_still = window.calls ? 0 : window.frames_still + 1) > 5"


class Seen(NamedTuple):
    """A page, and what it has done so far: errors on the console, and all addresses asked for."""

    page: object
    errors: list[str]
    requests: list[str]

    def check(self) -> None:
        """No error, and no request that left the machine."""
        assert not self.errors, self.errors
        assert self.requests, "the page has asked for nothing, not even itself"
        outside = [
            one
            for one in self.requests
            if not one.startswith(("data:", "blob:"))
            and urlsplit(one).hostname not in LOCAL_HOSTS
            and urlsplit(one).scheme != "file"
        ]
        assert not outside, outside


@contextmanager
def chromium() -> Iterator[object]:
    """A browser with an empty profile; the test is skipped where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'"
    )
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile, playwright.sync_playwright() as started:
        yield lambda size, scheme: started.chromium.launch_persistent_context(
            profile,
            executable_path=path,
            args=list(SWITCHES),
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,
        )


@contextmanager
def opened(
    launch, address: str, size: tuple[int, int] = DESKTOP, scheme: str = "light"
) -> Iterator[Seen]:
    """A page in a window of `size`, in a "light" or "dark" scheme, loaded."""
    context = launch(size, scheme)
    try:
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.add_init_script(COUNT_CALLS)
        seen = Seen(page, [], [])
        page.on("console", lambda m: m.type == "error" and seen.errors.append(m.text))
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("request", lambda request: seen.requests.append(request.url))
        page.goto(address)
        page.wait_for_load_state("load")
        yield seen
    finally:
        context.close()


def settle(page) -> None:
    """Wait until the server has answered every call, and the page shows the answers.

    Gradio fills the parts of an answer into the page one after the other: a picture may have
    changed before the sliders beside it have.
    """
    page.evaluate("window.frames_still = 0")
    page.wait_for_function(STILL)


def overflow_px(page) -> int:
    """How much wider than its window the page is."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


CONTRASTS = """() => {
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (text) => {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = text;
    paint.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = paint.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((v, i) => v * a + below[i] * (1 - a));
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const ground = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) {
      const style = getComputedStyle(at);
      if (style.backgroundImage !== "none") return null;
      layers.push(rgba(style.backgroundColor));
      if (layers.at(-1)[3] === 1) break;
    }
    const start = dark ? [0, 0, 0] : [255, 255, 255];
    return layers.reverse().reduce((below, layer) => over(layer, below), start);
  };
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), node = walker.currentNode.parentElement;
    const shown = { opacityProperty: true, visibilityProperty: true };
    if (!text || !node.checkVisibility(shown) || node.closest("svg, script, style")) continue;
    const frame = node.getBoundingClientRect(), below = ground(node);
    if (frame.width < 2 || frame.height < 2 || !below) continue;
    const style = getComputedStyle(node), px = parseFloat(style.fontSize);
    const [a, b] = [light(over(rgba(style.color), below)), light(below)];
    const large = px >= 24 || (px >= 18.66 && style.fontWeight >= 700);
    const ratio = Math.max(a, b) / Math.min(a, b);
    found.push({ text: text.slice(0, 40), ratio, needed: large ? 3 : 4.5 });
  }
  return found;
}"""


def check_contrast(page, at_least: int = 10) -> None:
    """All visible texts are readable by WCAG 2.1 AA, as the browser has styled them."""
    found = page.evaluate(CONTRASTS)
    assert len(found) >= at_least, f"only {len(found)} texts were found"
    weak = [(one["text"], round(one["ratio"], 2)) for one in found if one["ratio"] < one["needed"]]
    assert not weak, weak
