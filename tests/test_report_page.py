"""The report as a person meets it: in a browser, narrow and wide, light and dark, on paper."""

import io
import json
import re
from contextlib import contextmanager

import pytest
from PIL import Image

import stn
from stn.recipes import run_experiment
from stn.training import read_frames
from stn.viz import RunView, collect_examples, diagnosed, make_film, survey, write_report

from . import browser, synthetic
from .test_viz_report import check_nesting


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """A report of two runs that were just trained, one of them with two transformers."""
    views, folder = [], tmp_path_factory.mktemp("report")
    for model, recipe in (("st-fcn-tps", "mnist-r"), ("2xst-fcn-affine", "mnist-addition")):
        made = synthetic.experiment(model, recipe, steps=24, every=6, budget=300_000)
        run = folder / recipe
        results = run_experiment(made, run, synthetic.splits(), cpu=True)
        network, frames = stn.load_model(run), read_frames(run)
        images, labels, names = made.shown(synthetic.splits())
        views.append(
            RunView(
                recipe, {"training": {"batch_size": 32}}, results,
                [{"samples_seen": 32 * s, "train_loss": 2.0 / s} for s in (6, 12, 24)],
                collect_examples(network, images, labels, 9, names), survey(network, images[:100]),
                make_film(network.transformer, frames), diagnosed(network.transformer, frames, 32),
            )
        )  # fmt: skip
    write_report(views, folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def launch():
    with browser.chromium() as found:
        yield found


@contextmanager
def opened(launch, page_file, width=1280, scheme="light", motion="reduce"):
    """The report; whatever is done with it, it says no error and asks nothing off the machine."""
    with browser.opened(launch, page_file.as_uri(), (width, 844), scheme) as seen:
        seen.page.emulate_media(reduced_motion=motion)
        seen.page.reload()
        yield seen.page
        seen.check()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_fits_and_can_be_read(launch, page_file, width, scheme):
    with opened(launch, page_file, width, scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert browser.overflow_px(page) <= 0
        browser.check_contrast(page, at_least=100)
        # Texts in charts have the colour of notes, which was just measured on the same ground.
        fills = page.evaluate(
            "[...document.querySelectorAll('svg text')].map(e => getComputedStyle(e).fill)"
        )
        note = page.evaluate("getComputedStyle(document.querySelector('p.soft')).color")
        assert len(fills) > 20
        assert set(fills) == {note}
        shot = Image.open(io.BytesIO(page.screenshot()))
        assert shot.width == width
        assert (shot.convert("L").getpixel((2, 2)) > 200) == (scheme == "light")


def moment(page, film=0):
    """What a film shows: the first path, the place of the first strip, the words."""
    return page.evaluate(
        """n => {
          const film = document.querySelectorAll(".film")[n];
          return [film.querySelector("path.bent").getAttribute("d"),
                  film.querySelector(".strip").viewBox.baseVal.y,
                  film.querySelector("output").textContent];
        }""",
        film,
    )


def test_the_film_is_moved_by_the_keyboard(launch, page_file):
    with opened(launch, page_file) as page:
        last = moment(page)
        assert last[2] == "after 768 images"
        button, slider = page.locator(".film button").first, page.locator(".film input").first
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.matches('.film input')"):
                break
        assert slider.evaluate("e => e === document.activeElement")
        assert slider.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
        page.keyboard.press("Home")
        first = moment(page)
        assert first[2] == "before training"
        assert first[1] == 0
        assert first[0] != last[0]
        assert slider.get_attribute("aria-valuetext") == "before training"
        page.keyboard.press("ArrowRight")
        assert moment(page)[2] == "after 192 images"
        page.keyboard.press("Shift+Tab")
        assert button.evaluate("e => e === document.activeElement")
        page.keyboard.press("Enter")
        assert button.text_content() == "Pause"
        page.wait_for_function("document.querySelector('.film button').textContent === 'Play'")
        assert moment(page) == last
        assert moment(page, 1)[2] == "after 768 images"  # the other one stood still


@pytest.mark.parametrize(("motion", "starts"), [("reduce", False), ("no-preference", True)])
def test_motion_starts_by_itself_only_where_it_is_welcome(launch, page_file, motion, starts):
    with opened(launch, page_file, motion=motion) as page:
        page.evaluate(
            """() => {
              window.moments = new Set();
              const output = document.querySelector(".film output");
              new MutationObserver(() => moments.add(output.textContent)).observe(
                output, {childList: true});
              document.querySelector(".film .controls").scrollIntoView({block: "center"});
            }"""
        )
        page.wait_for_timeout(3000)
        assert (page.evaluate("moments.size") == 5) == starts
        assert moment(page)[2] == "after 768 images"


def test_without_scripts_the_last_moment_stands(page_file):
    page = page_file.read_text(encoding="utf-8")
    assert page.count('<div class="controls" hidden>') == 2
    data = json.loads(page.partition('<script type="application/json">')[2].partition("<")[0])
    assert f'd="{data["paths"][0][-1]}"' in page


def test_prints(launch, page_file):
    with opened(launch, page_file, scheme="dark") as page:
        paper = page.pdf(format="A4")
        assert paper.startswith(b"%PDF")
        assert 2 <= len(re.findall(rb"/Type\s*/Page\b", paper)) <= 20
        assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
        page.emulate_media(media="print", color_scheme="light")
        assert not page.locator(".film .controls").first.is_visible()
        browser.check_contrast(page)
        page.emulate_media(media="print", color_scheme="dark")  # on paper it is light all the same
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == "rgb(255, 255, 255)"


def test_the_page_is_whole_and_small(page_file):
    page = page_file.read_text(encoding="utf-8")
    check_nesting(page)
    for heading in ("How it learned to look", "Where it looks", "What it picks", "folded",
                    "Highest loss", "Environment", "Mean test image"):  # fmt: skip
        assert page.count(heading) >= 2, heading
    assert page_file.stat().st_size < 1_500_000
