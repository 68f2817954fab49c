"""Photograph the pictures of explorer.md in chromium: python docs/draw_explorer.py [folder]."""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from stn.explore import explore

HERE = Path(__file__).parent
MODEL = HERE.parent / "results" / "models" / "mnist-rts"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SETTLED_MS = 2000


def distort(page) -> None:
    """Turn the digit, move it, and bend its right edge in."""
    for k, value in ((0, "38"), (2, "0.08")):
        page.locator(f"#distort-{k} input[type=number]").fill(value)
    page.locator("#bend .handle:nth-child(6)").focus()
    for _ in range(2):
        page.keyboard.press("Shift+ArrowLeft")


def photograph(page, path: Path) -> None:
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(SETTLED_MS)
    shot = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    shot.convert("RGB").quantize(256).save(path, optimize=True)
    print(f"wrote {path}")


def main(folder: Path) -> None:
    served = explore(MODEL, wait=False)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for name, size, scheme in (("desktop", DESKTOP, "light"), ("phone", PHONE, "dark")):
            page = browser.new_page(viewport=size, color_scheme=scheme)
            page.goto(served.local_url)
            page.wait_for_selector("#result figure img")
            distort(page)
            photograph(page, folder / f"explorer-network-{name}.png")
            if name == "desktop":
                page.get_by_role("tab", name="Playground").click()
                page.wait_for_selector("#warped img")
                photograph(page, folder / f"explorer-playground-{name}.png")
        browser.close()
    served.close(verbose=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "images")
