"""How all of the explorer's handlers are connected."""

import functools
from collections.abc import Callable, Sequence
from typing import Any


def connect(
    gr: Any,
    triggers: Sequence[Any],
    handler: Callable,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    then: tuple[Callable, Sequence[Any], Sequence[Any]] | None = None,
    *,
    may_refuse: bool = False,
) -> None:
    """Call `handler` at each trigger; of many that come in a row, the last.

    then: another handler with its inputs and outputs, for what may come a moment later.
    may_refuse: it may be given what it refuses, and says so in the page. That goes through
        Gradio's queue, which is slower.
    """
    options = {
        "queue": may_refuse,
        "show_progress": "hidden",
        "trigger_mode": "always_last",
        "api_visibility": "private",
    }
    done = gr.on(triggers, _told(gr, handler), list(inputs), list(outputs), **options)
    if then is not None:
        handler, inputs, outputs = then
        done.success(_told(gr, handler), list(inputs), list(outputs), **options)


def _told(gr: Any, handler: Callable) -> Callable:
    """What the user can mend is told in the page, not in the server's log."""

    @functools.wraps(handler)
    def run(*values):
        try:
            return handler(*values)
        except (ValueError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from None

    return run
