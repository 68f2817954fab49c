"""The second tab: any family, any sampler, on any picture."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..transforms import Transform
from . import drawing, playground
from .controls import choice, handles, handles_value, layer, points_of, upload
from .events import connect
from .families import FAMILIES, MOST_NUMBERS, Family, named_points, theta_of_points
from .playground import Sampler

START_FAMILY = "ThinPlateSpline"
START_POINTS = ((0.0, 0.0), (0.0, -0.2), (0.0, 0.0), (0.2, 0.0), (0.0, 0.0), (-0.2, 0.0),
                (0.0, 0.0), (0.0, 0.2), (0.0, 0.0))  # fmt: skip
STEP = 0.005
PICTURES = {"Portrait": playground.start_photo, "Chart": playground.start_chart}


class Play(NamedTuple):
    """What the controls say together."""

    photo: Tensor
    family: Family
    transform: Transform
    theta: Tensor

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.photo.shape[-2:]
        return height, width

    def points(self) -> str:
        """The value of the handles."""
        return handles_value(*named_points(self.family, self.transform, self.theta), self.size)

    def numbers(self) -> list[float]:
        """The value of all sliders, used or not."""
        used = self.theta.tolist() if self.family.numbers else []
        return [round(v, 4) for v in used] + [0.0] * (MOST_NUMBERS - len(used))

    def lines(self) -> str:
        """The grid on the photo."""
        lattice = drawing.lattice()
        grid = self.transform.map_points(self.theta.unsqueeze(0), lattice.view(-1, 2))
        return drawing.grid_layer(grid.view(1, *lattice.shape), self.size)


def playing(photo: Tensor, name: str, points: str | None, numbers: tuple) -> Play:
    """By the handles where they are given and say all or were moved; else by the sliders."""
    height, width = photo.shape[-2:]
    transform = playground.transform_of(name, (height, width))
    family = FAMILIES[name]
    if points is not None:
        theta = theta_of_points(family, transform, points_of(points))
    else:
        theta = torch.tensor([float(v) for v in numbers[: len(family.numbers)]])
    return Play(photo, family, transform, theta)


def started(photo: Tensor, name: str) -> Play:
    """A family as it is first shown: the identity, but for a bend that shows what a spline does."""
    height, width = photo.shape[-2:]
    transform = playground.transform_of(name, (height, width))
    theta = torch.zeros(transform.num_params)
    if name == START_FAMILY:
        theta = torch.tensor(START_POINTS).flatten()
    return Play(photo, FAMILIES[name], transform, theta)


def result(play: Play, mode: str, padding: str, antialias: bool, shrink: str) -> str:
    """The warped picture."""
    sampler = Sampler(mode, padding, antialias)
    size = playground.shrunk(play.size, playground.SHRINKS[shrink])
    out = playground.play(play.photo, play.transform, play.theta, sampler, size)
    caption = f"{size[1]} x {size[0]} px, {mode}, {padding}{', antialias' if antialias else ''}"
    return f'<div class="outputs">{drawing.figure(out, caption)}</div>'


def strip(play: Play, mode: str, padding: str, antialias: bool, shrink: str, compared: str) -> str:
    """The same warp side by side, at most 160 px large."""
    sampler = Sampler(mode, padding, antialias)
    size = playground.shrunk(play.size, playground.SHRINKS[shrink], playground.STRIP_PX)
    shown = playground.side_by_side(
        play.photo, play.transform, play.theta, sampler, size, compared.lower()
    )
    figures = "".join(drawing.figure(image, says) for says, image in shown)
    return f'<div class="outputs strip">{figures}</div>'


def playground_tab(gr: Any) -> None:
    """Lay out the tab, and connect it."""
    photo = PICTURES["Portrait"]()
    play = started(photo, START_FAMILY)
    kept = gr.State(photo)
    first = ("bilinear", "zeros", False, "full")
    with gr.Row():
        family = gr.Dropdown(
            list(FAMILIES),
            value=START_FAMILY,
            label="Family",
            info=play.family.says,
            elem_id="family",
            min_width=280,
        )
        chosen = choice(gr, "Picture", tuple(PICTURES), "Portrait")
        file = upload(gr, "Or an image file", "photo-file")
    with gr.Row():
        with gr.Column(min_width=280):
            with gr.Group(elem_classes="stack"):
                picture = layer(gr, drawing.image_layer(photo, "the picture"), "photo")
                lines = layer(gr, play.lines(), "photo-lines")
                points = handles(gr, play.points(), "points")
            sliders = [
                gr.Slider(*slider_range(play.family, k), 0, step=STEP, visible=False,
                          label=slider_label(play.family, k), elem_id=f"theta-{k}")
                for k in range(MOST_NUMBERS)
            ]  # fmt: skip
            reset = gr.Button("Back to the identity", size="sm", elem_id="identity")
        with gr.Column(min_width=280):
            made = layer(gr, result(play, *first), "warped")
    with gr.Row():
        mode = choice(gr, "Kernel", playground.MODES, first[0])
        padding = choice(gr, "Padding", playground.PADDINGS, first[1])
        with gr.Column(min_width=160):
            shrink = choice(gr, "Output size", tuple(playground.SHRINKS), first[3])
            antialias = gr.Checkbox(first[2], label="Antialias", elem_id="antialias")
    compared = choice(
        gr, "Side by side", tuple(c.capitalize() for c in playground.COMPARED), "Kernel"
    )
    beside = layer(gr, strip(play, *first, "Kernel"), "strip")

    sampler = [mode, padding, antialias, shrink]
    said = [kept, family, points, *sliders, *sampler, compared]
    later = (_strip, said, [beside])

    def moved(*values) -> tuple:
        play, sampler = _said(values)
        by_nodes = play.family.handles == "nodes"
        return gr.skip() if by_nodes else play.points(), play.lines(), result(play, *sampler)

    connect(
        gr,
        [slider.input for slider in sliders],
        moved,
        said,
        [points, lines, made],
        later,
    )
    connect(
        gr,
        [control.input for control in sampler],
        _result,
        said,
        [made],
        later,
    )
    connect(gr, [compared.input], _strip, said, [beside])

    def fitted(values: tuple) -> tuple[Play | None, list]:
        """What the points say, and what is drawn of it; if no theta puts the points there, all
        stays as it was."""
        try:
            play, sampler = _said(values, by_handles=True)
        except ValueError:
            return None, [gr.skip()] * (2 + MOST_NUMBERS)
        numbers = play.numbers() if play.family.numbers else [gr.skip()] * MOST_NUMBERS
        return play, [play.lines(), result(play, *sampler), *numbers]

    def dragged(*values) -> list:
        return fitted(values)[1]

    def released(*values) -> list:
        """The drag's end may come before its last move is answered: what that shows, and points
        where theta puts them."""
        play, shown = fitted(values)
        return [(play or _said(values)[0]).points(), *shown]

    drawn = [lines, made, *sliders]
    connect(gr, [points.input], dragged, said, drawn, later)
    connect(gr, [points.release], released, said, [points, *drawn], later)

    def begin(*values) -> tuple:
        play = started(values[0], values[1])
        if values[-1] == "identity":
            play = play._replace(theta=torch.zeros_like(play.theta))
        family = play.family
        shown = [
            gr.Slider(
                *slider_range(family, k),
                0,
                label=slider_label(family, k),
                visible=k < len(family.numbers),
            )
            for k in range(MOST_NUMBERS)
        ]
        sampler = values[3 + MOST_NUMBERS : 7 + MOST_NUMBERS]
        return (
            gr.Dropdown(info=family.says),
            play.points(),
            play.lines(),
            result(play, *sampler),
            *shown,
        )

    fresh = [family, points, lines, made, *sliders]
    connect(gr, [family.input], begin, said, fresh, later)
    connect(gr, [reset.click], lambda *v: begin(*v, "identity"), said, fresh, later)

    def replaced(photo: Tensor, *values) -> tuple:
        play, sampler = _said((photo, *values[1:]))
        return (
            photo,
            drawing.image_layer(photo, "the picture"),
            play.points(),
            play.lines(),
            result(play, *sampler),
        )

    new = [kept, picture, points, lines, made]
    connect(
        gr,
        [chosen.input],
        lambda name, *values: replaced(PICTURES[name](), *values),
        [chosen, *said],
        new,
        later,
    )
    connect(
        gr,
        [file.upload],
        lambda path, *values: replaced(playground.read_photo(path), *values),
        [file, *said],
        new,
        later,
        may_refuse=True,
    )


def slider_range(family: Family, k: int) -> tuple[float, float]:
    """Of the k-th slider; of one that the family does not use, any."""
    limit = family.numbers[k].limit if k < len(family.numbers) else 1.0
    return -limit, limit


def slider_label(family: Family, k: int) -> str:
    """What the k-th slider moves."""
    return family.numbers[k].name if k < len(family.numbers) else f"theta {k + 1}"


def _said(values: tuple, by_handles: bool = False) -> tuple[Play, tuple]:
    """What the controls say: photo, family, points, numbers, then four of the sampler."""
    photo, name, points = values[:3]
    numbers = values[3 : 3 + MOST_NUMBERS]
    sampler = values[3 + MOST_NUMBERS : 7 + MOST_NUMBERS]
    by_handles = by_handles or FAMILIES[name].handles == "nodes"
    return playing(photo, name, points if by_handles else None, numbers), sampler


def _result(*values) -> str:
    play, sampler = _said(values)
    return result(play, *sampler)


def _strip(*values) -> str:
    play, sampler = _said(values)
    return strip(play, *sampler, compared=values[-1])
