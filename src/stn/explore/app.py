"""The page, and the server that serves it to this machine alone."""

import functools
import html
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ..viz.pictures import REGION_STYLE
from .controls import STATIC
from .network import Viewer
from .network_tab import network_tab
from .playground_tab import playground_tab

UPLOAD_LIMIT = "20mb"
SOFT, SOFT_DARK = "#555c64", "#a3abb4"
MOST_SESSIONS = 50  # whose pictures are kept


@functools.cache
def uploads() -> tempfile.TemporaryDirectory:
    """Where Gradio keeps what is uploaded; this user's alone, and gone with the process."""
    return tempfile.TemporaryDirectory(prefix="stn-explore-")


@asynccontextmanager
async def _until_closed(app: Any) -> AsyncIterator[None]:
    """Nothing that was uploaded outlives the page."""
    yield
    for path in Path(uploads().name).iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def import_gradio() -> Any:
    """Gradio, told to send nothing to anyone.

    Raises:
        ImportError: it is not installed; it says what to do.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = uploads().name
    try:
        import gradio
    except ImportError:
        raise ImportError(
            "the explorer is built on Gradio, which is not installed: "
            "pip install 'torch-stn[explore]'"
        ) from None
    return gradio


def build(viewer: Viewer | None = None) -> Any:
    """The page as a `gradio.Blocks`, ready to be launched.

    Args:
        viewer: of the network to look at; None for the playground alone.
    """
    gr = import_gradio()
    title = "stn explorer" if viewer is None else f"stn explorer: {viewer.title}"
    with gr.Blocks(analytics_enabled=False, title=title) as page:
        gr.HTML(f"<h1>{html.escape(title)}</h1>", apply_default_css=False)
        if viewer is None:
            playground_tab(gr)
        else:
            with gr.Tab("Network"):
                network_tab(gr, viewer)
            with gr.Tab("Playground"):
                playground_tab(gr)
    return page


def theme_of(gr: Any) -> Any:
    """Gradio's theme in the machine's own fonts, with greys that can be read on their ground."""
    theme = gr.themes.Default(
        primary_hue="blue",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return theme.set(
        body_text_color_subdued=SOFT,
        body_text_color_subdued_dark=SOFT_DARK,
        block_info_text_color=SOFT,
        block_info_text_color_dark=SOFT_DARK,
    )


def explore(
    folder: str | Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    open_browser: bool = False,
    wait: bool = True,
    trust_code: bool = False,
) -> Any:
    """Serve the explorer.

    Nothing leaves the machine: no telemetry, no share link, no font or script from elsewhere.

    Args:
        folder: of a run or a published model; None for the playground alone.
        host: the address to listen at; the default is seen from this machine only.
        port: None for the first that is free from 7860.
        open_browser: open the page in the browser.
        wait: serve until interrupted; False returns at once, and `.close()` ends it.
        trust_code: as in `stn.load_model`.

    Returns:
        The `gradio.Blocks`; its `local_url` is the page's address.

    Raises:
        ImportError: Gradio is not installed.
        ValueError: no such run, or one that looks at no pictures.
        OSError: the port is taken.

    Example:
        >>> from stn.explore import explore
        >>> page = explore(wait=False)  # doctest: +SKIP
        >>> page.close()  # doctest: +SKIP
    """
    viewer = None if folder is None else Viewer(folder, trust_code)
    gr = import_gradio()
    page = build(viewer)
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=open_browser,
        prevent_thread_lock=True,
        quiet=True,
        footer_links=[],
        run_history=False,
        max_file_size=UPLOAD_LIMIT,
        state_session_capacity=MOST_SESSIONS,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        app_kwargs={"lifespan": _until_closed},
        theme=theme_of(gr),
        css=REGION_STYLE,
        css_paths=[STATIC / "style.css"],
    )
    if wait:
        print(f"the explorer is at {page.local_url} (Ctrl-C ends it)")
        page.block_thread()
    return page
