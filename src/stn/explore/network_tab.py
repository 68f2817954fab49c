"""The first tab: draw or drop, distort, and see what the network makes of it."""

import html
import itertools
from typing import Any

import torch
from torch import Tensor

from .. import coords
from ..viz.pictures import image_address
from ..viz.survey import theta_names
from . import drawing
from .controls import choice, handles, handles_value, layer, pad, points_of, upload
from .events import connect
from .network import LATTICE, Distortion, Look, Source, Viewer, read_drawing, typed_digit
from .playground import read_photo, start_photo

START_DIGIT = 4
SLIDERS = (  # of Distortion, in its order: label, least, most, start, step
    ("Angle, degrees clockwise", -180, 180, 0, 1),
    ("Scale", 0.3, 2, 1, 0.01),
    ("Shift right", -0.5, 0.5, 0, 0.01),
    ("Shift down", -0.5, 0.5, 0, 0.01),
    ("Tilt left edge nearer", -0.5, 0.5, 0, 0.01),
    ("Tilt top edge nearer", -0.5, 0.5, 0, 0.01),
)
START = tuple(slider[3] for slider in SLIDERS)
NODE_NAMES = [f"row {k // LATTICE[1] + 1}, column {k % LATTICE[1] + 1}" for k in range(9)]


def network_tab(gr: Any, viewer: Viewer) -> None:
    """Lay out the tab, and connect it."""
    show = Shown(viewer)
    first = viewer.source_of_drawing(typed_digit(START_DIGIT))
    if not viewer.digits:
        first = viewer.source_of_picture(start_photo())
    canvas, lines, result = show(first, *START, show.straight)
    source, numbers = gr.State(first), itertools.count()
    with gr.Row():
        with gr.Column(min_width=240):
            title = "1. Draw a digit, or drop an image" if viewer.digits else "1. Drop an image"
            layer(gr, f"<h2>{title}</h2>", "step-1")
            with gr.Column(visible=viewer.digits):
                square = pad(gr, image_address(typed_digit(START_DIGIT)), "pad")
                clear = gr.Button("Clear", size="sm", elem_id="clear")
                typed = choice(gr, "Or a typed digit", [*"0123456789"], str(START_DIGIT))
            file = upload(gr, "An image file", "file")
            test = gr.Button("A test image of this run", size="sm", elem_id="test")
        with gr.Column(min_width=280):
            layer(gr, "<h2>2. Distort it</h2>", "step-2")
            with gr.Group(elem_classes="stack"):
                seen = layer(gr, canvas, "canvas")
                over = layer(gr, lines, "lines")
                points = handles(gr, show.straight, "bend")
            sliders = [
                gr.Slider(low, high, start, step=step, label=label, elem_id=f"distort-{k}")
                for k, (label, low, high, start, step) in enumerate(SLIDERS)
            ]
            reset = gr.Button("Undo all distortions", size="sm", elem_id="straighten")
        with gr.Column(min_width=280):
            layer(gr, "<h2>3. What the network makes of it</h2>", "step-3")
            made = layer(gr, result, "result")
    shown, how = [seen, over, made], [*sliders, points]
    # What changes the source or all sliders sets them only: calls that overlap may end in any
    # order, and what is shown must be what the page says by then.
    again = (show, [source, *how], shown)

    def drawn_as(image: Tensor) -> tuple[str, Source]:
        return image_address(image), viewer.source_of_drawing(image)

    def read(path: str) -> Source:
        return read_source(viewer, path)

    def next_test() -> Source:
        return viewer.source_of_test(next(numbers))

    def typed_as(digit: str) -> tuple[str, Source]:
        return drawn_as(typed_digit(int(digit)))

    def cleared() -> tuple[str, Source]:
        return drawn_as(torch.zeros_like(typed_digit(0)))

    def drawn(value: str) -> Source:
        return viewer.source_of_drawing(read_drawing(value))

    def straight() -> tuple:
        return *START, show.straight

    connect(gr, [*(s.input for s in sliders), points.input], show, [source, *how], shown)
    connect(gr, [reset.click], straight, [], how, again)
    connect(gr, [file.upload], read, [file], [source], again, may_refuse=True)
    connect(gr, [test.click], next_test, [], [source], again, may_refuse=True)
    connect(gr, [square.input], drawn, [square], [source], again)
    connect(gr, [typed.input], typed_as, [typed], [square, source], again)
    connect(gr, [clear.click], cleared, [], [square, source], again)


class Shown:
    """What is shown of a source under a distortion: the canvas, the lines on it, the result."""

    def __init__(self, viewer: Viewer):
        self.viewer = viewer
        self.lattice = drawing.lattice()
        nodes = coords.lattice_points(LATTICE).float()
        self.straight = handles_value(nodes, NODE_NAMES, viewer.size)

    def __call__(self, source: Source, *values) -> tuple[str, str, str]:
        *numbers, points = values
        distortion = Distortion(*map(float, numbers), points=points_of(points))
        seen = self.viewer.look(source, distortion, self.lattice)
        return (
            drawing.image_layer(seen.canvas, "what the network sees, distorted"),
            drawing.grid_layer(seen.grids, self.viewer.size),
            self.result(seen),
        )

    def result(self, seen: Look) -> str:
        windows = [
            drawing.figure(output, words)
            for output, words in zip(seen.outputs, seen.words, strict=True)
        ]
        parts = [f'<div class="outputs">{"".join(windows)}</div>']
        if not windows:
            parts = ['<p class="said">This network has no transformer.</p>']
        best = float(seen.chances.amax(-1).prod())
        said = f"It reads {html.escape(seen.answer) or 'nothing'} ({100 * best:.0f} %)."
        parts.append(f'<p class="said"><strong>{said}</strong></p>')
        for chances in torch.atleast_2d(seen.chances):
            parts.append(drawing.score_bars(chances, self.viewer.names))
        layer = self.viewer.model.transformer
        if layer is not None:
            names = theta_names(layer.composed())
            parts += [drawing.numbers_table(names, theta) for theta in seen.theta]
        return "".join(parts)


def read_source(viewer: Viewer, path: str) -> Source:
    """A file as the network's source; a digit on light ground is turned to white on black."""
    photo = read_photo(path)
    if not viewer.digits:
        return viewer.source_of_picture(photo)
    grey = photo.mean(0, keepdim=True)
    border = torch.cat([grey[0, 0], grey[0, -1], grey[0, :, 0], grey[0, :, -1]])
    return viewer.source_of_drawing(1 - grey if float(border.median()) > 0.5 else grey)
