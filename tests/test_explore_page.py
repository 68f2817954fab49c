"""The explorer in a browser: draw, drag, press keys, drop, and see the output change."""

import os
import socket
from pathlib import Path

import pytest
from PIL import Image

from stn.explore import build, explore

from .browser import DESKTOP, PHONE, check_contrast, chromium, opened, overflow_px, settle

MODEL = Path(__file__).parents[1] / "results" / "models" / "mnist-rts"
CANVAS, RESULT = "#canvas image", "#result figure img"
WARPED, STRIP = "#warped img", "#strip img"
TABS = 60


@pytest.fixture(scope="module")
def asked():
    """The hosts whose addresses this process has asked for."""
    hosts, resolve = [], socket.getaddrinfo

    def record(host, *args, **options):
        hosts.append(host.decode() if isinstance(host, bytes) else host)
        return resolve(host, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", record)
        yield hosts


@pytest.fixture(scope="module")
def address(asked):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install -e '.[dev]'")
    page = explore(MODEL, wait=False)
    yield page.local_url
    page.close(verbose=False)


@pytest.fixture(scope="module")
def launch():
    with chromium() as launcher:
        yield launcher


def picture(page, selector):
    """The data of the image that is shown."""
    return page.eval_on_selector(selector, "e => e.getAttribute('src') ?? e.getAttribute('href')")


def changed(page, selector, act):
    """Do `act`, wait until the image's data is other than before, and for all that follows."""
    before = picture(page, selector)
    assert before.startswith("data:image/")
    act()
    page.wait_for_function(
        "([s, b]) => { const e = document.querySelector(s);"
        " return (e.getAttribute('src') ?? e.getAttribute('href')) !== b; }",
        arg=[selector, before],
    )
    settle(page)


def tab_to(page, selector):
    """Reach a control by the Tab key alone."""
    for _ in range(TABS):
        page.keyboard.press("Tab")
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
    raise AssertionError(f"{selector} is not among the first {TABS} stops of the Tab key")


def drag(page, selector, dx, dy):
    page.locator(selector).scroll_into_view_if_needed()
    box = page.locator(selector).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx / 2, y + dy / 2)
    page.mouse.move(x + dx, y + dy)
    page.mouse.up()


def ready(page, selector):
    page.wait_for_selector(selector)
    settle(page)
    return page


def playground(page):
    page.get_by_role("tab", name="Playground").click()
    return ready(page, WARPED)


def test_draw_and_distort(launch, address):
    with opened(launch, address) as seen:
        page = ready(seen.page, RESULT)
        changed(page, CANVAS, lambda: page.get_by_role("button", name="Clear").click())
        changed(page, CANVAS, lambda: drag(page, "canvas.pad", 0, 90))
        ink = page.eval_on_selector(
            "canvas.pad",
            "c => c.getContext('2d').getImageData(0, 0, 112, 112).data.filter((v, i) => "
            "i % 4 === 0 && v > 200).length",
        )
        assert 100 < ink < 3000
        changed(page, RESULT, lambda: drag(page, "#distort-0 input[type=range]", 40, 0))
        changed(page, CANVAS, lambda: drag(page, "#bend .handle:nth-child(2)", 25, 30))
        changed(page, CANVAS, lambda: page.get_by_label("7", exact=True).check())
        page.get_by_role("button", name="Undo all distortions").click()
        page.wait_for_function("document.querySelector('#distort-0 input').value === '0'")
        settle(page)
        assert "reads 7" in page.locator("#result").inner_text()
        seen.check()


def test_the_keyboard_reaches_all_of_it(launch, address):
    with opened(launch, address) as seen:
        page = ready(seen.page, RESULT)
        tab_to(page, "#bend .handle:nth-child(5)")
        changed(page, CANVAS, lambda: page.keyboard.press("Shift+ArrowRight"))
        assert page.evaluate("document.activeElement.matches('#bend .handle:nth-child(5)')")
        assert "x 0.10" in page.evaluate("document.activeElement.ariaLabel")
        tab_to(page, "#distort-0 input[type=range]")
        changed(page, RESULT, lambda: page.keyboard.press("PageUp"))
        seen.check()


def test_play_with_families_and_samplers(launch, address, tmp_path):
    with opened(launch, address) as seen:
        page = playground(ready(seen.page, RESULT))
        changed(page, STRIP, lambda: drag(page, "#points .handle:nth-child(1)", 20, 25))
        page.get_by_label("Family").click()
        changed(page, WARPED, lambda: page.get_by_role("option", name="Rigid").click())
        slider = page.locator("#theta-0 input[type=range]")
        corner = page.locator("#points .handle:nth-child(1)")
        place = corner.get_attribute("style")
        slider.focus()
        changed(page, WARPED, lambda: page.keyboard.press("PageUp"))
        assert corner.get_attribute("style") != place
        angle = slider.input_value()
        changed(page, WARPED, lambda: drag(page, "#points .handle:nth-child(1)", 60, 0))
        assert slider.input_value() != angle
        changed(page, WARPED, lambda: page.get_by_label("mirror", exact=True).check())
        changed(page, WARPED, lambda: page.get_by_label("1/8", exact=True).check())
        changed(page, WARPED, lambda: page.get_by_label("Antialias", exact=True).first.check())
        Image.new("RGB", (60, 40), "red").save(tmp_path / "red.png")
        files = page.locator("#photo-file input[type=file]")
        changed(page, "#photo image", lambda: files.set_input_files(tmp_path / "red.png"))
        seen.check()


def test_points_that_no_theta_reaches_change_nothing(launch, address):
    with opened(launch, address) as seen:
        page = playground(ready(seen.page, RESULT))
        page.get_by_label("Family").click()
        changed(page, WARPED, lambda: page.get_by_role("option", name="Attention").click())

        def type_in(k, value):
            number = page.locator(f"#theta-{k} input[type=number]")
            changed(page, WARPED, lambda: (number.fill(value), number.press("Enter")))

        for k, value in enumerate(("-1.4", "-0.8", "-0.8")):
            type_in(k, value)
        before, frame = picture(page, WARPED), page.locator("#photo").bounding_box()
        label = page.get_attribute("#points .handle", "aria-label")
        drag(page, "#points .handle:nth-child(1)", frame["width"], frame["height"])
        settle(page)
        assert page.get_attribute("#points .handle", "aria-label") == label  # it went back
        assert picture(page, WARPED) == before
        type_in(0, "-1")
        seen.check()


def test_nothing_that_was_uploaded_outlives_its_page():
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("gradio", reason="gradio is not installed: pip install -e '.[dev]'")
    page = explore(wait=False)
    kept = Path(os.environ["GRADIO_TEMP_DIR"])
    try:
        sent = {"files": ("mine.png", b"my face")}
        httpx.post(f"{page.local_url}gradio_api/upload", files=sent).raise_for_status()
        assert [*kept.rglob("mine.png")]
        assert kept.stat().st_mode & 0o077 == 0
    finally:
        page.close(verbose=False)
    assert not [*kept.iterdir()]


def test_a_file_that_is_no_image_is_told_of(launch, address, tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    with opened(launch, address) as seen:
        page = ready(seen.page, RESULT)
        page.locator("#file input[type=file]").set_input_files(tmp_path / "notes.png")
        page.wait_for_selector("text=notes.png is no image that can be read")
        seen.check()


@pytest.mark.parametrize(
    ("size", "scheme"), [(PHONE, "dark"), (DESKTOP, "light")], ids=["phone-dark", "desktop-light"]
)
def test_readable_and_no_wider_than_the_window(launch, address, size, scheme):
    with opened(launch, address, size, scheme) as seen:
        for page in (ready(seen.page, RESULT), playground(seen.page)):
            page.wait_for_function("document.getAnimations().every(a => a.playState !== 'running')")
            assert overflow_px(page) <= 0
            check_contrast(page)
        seen.check()


def test_the_server_speaks_to_this_machine_alone(address, asked):
    assert address.startswith("http://127.0.0.1:")
    assert set(asked) <= {"127.0.0.1", "localhost", "::1", None, ""}
    page = build()
    assert not page.analytics_enabled
    labels = {block["props"].get("label") for block in page.config["components"]}
    assert "Family" in labels  # without a folder, the playground alone
    assert "An image file" not in labels
