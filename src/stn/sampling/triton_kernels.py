"""The Triton kernels of stn::sample: a program handles a tile of targets and a run of channels.

Images and outputs are dense, channels last (LAST) or planar. Images are read in their own type and
accumulated in WORK, float32 or float64.
"""

# Kernels are not quite Python: tuples grow by addition, and types are Triton's.
# ruff: noqa: RUF005, RUF059
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportAssignmentType=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from .triton_places import (
    INFINITY,
    axis_map,
    corners_of,
    field_places,
    matrix_places,
    point_of,
    taps_of,
    tile_of,
)

# What differs from call to call, and must not mean another compilation.
SIZES = ["images", "rows", "in_x", "in_y", "in_z", "out_x", "out_y", "out_z", "share"]


@triton.jit
def places_of(
    places,
    row,
    stride_row,
    stride_point,
    stride_axis,
    n_in,
    n_out,
    first,
    step,
    inside,
    DIM: tl.constexpr,
    KIND: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGN: tl.constexpr,
    WORK: tl.constexpr,
):
    """(finite, index, fraction) of the targets, the axis maps, and px - centre and w."""
    maps = ()
    for i in tl.static_range(DIM):
        maps = maps + (axis_map(n_in[i], n_out[i], ALIGN),)
    w = tl.full(step[0].shape, 1, WORK)
    shift = (w, w, w)
    if KIND == "affine" or KIND == "projective":
        finite, index, fraction, shift, w = matrix_places(
            places + row * stride_row,
            maps,
            n_in,
            first,
            step,
            DIM,
            KIND == "projective",
            PADDING,
            ALIGN,
            WORK,
        )
    else:
        finite, index, fraction = field_places(
            places + row * stride_row,
            stride_point,
            stride_axis,
            maps,
            n_in,
            n_out,
            first,
            step,
            inside,
            DIM,
            KIND,
            PADDING,
            ALIGN,
            WORK,
        )
    return (finite & inside, index, fraction), maps, shift, w


@triton.jit(do_not_specialize=[*SIZES, "stride_row"])
def forward_kernel(
    input,
    places,
    out,
    images,
    rows,
    channels,
    in_x,
    in_y,
    in_z,
    out_x,
    out_y,
    out_z,
    share,
    stride_row,
    stride_point,
    stride_axis,
    X: tl.constexpr,
    Y: tl.constexpr,
    Z: tl.constexpr,
    BLOCK: tl.constexpr,
    LAST: tl.constexpr,
    OFFSET: tl.constexpr,
    WORK: tl.constexpr,
    DIM: tl.constexpr,
    KIND: tl.constexpr,
    TAPS: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGN: tl.constexpr,
):
    n_in = (in_x, in_y, in_z)
    n_out = (out_x, out_y, out_z)
    tiles = tl.cdiv(out_x, X) * tl.cdiv(out_y, Y) * tl.cdiv(out_z, Z)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    first, step, inside = tile_of(tl.program_id(0) % tiles, n_out, X, Y, Z)
    place, maps, shift, w = places_of(
        places, row, stride_row, stride_point, stride_axis, n_in, n_out, first, step, inside,
        DIM, KIND, PADDING, ALIGN, WORK,
    )  # fmt: skip
    pixels = in_x.to(OFFSET) * in_y * in_z
    targets = out_x.to(OFFSET) * out_y * out_z
    pixel_stride = channels if LAST else 1
    in_stride = 1 if LAST else pixels
    out_stride = 1 if LAST else targets
    input += row // (rows // images) * channels * pixels
    out += row * channels * targets
    to = point_of(
        (
            (first[0] + step[0]).to(OFFSET),
            (first[1] + step[1]).to(OFFSET),
            (first[2] + step[2]).to(OFFSET),
        ),
        n_out,
    )
    taps = taps_of(place, n_in, TAPS, DIM, MODE, PADDING, ALIGN, OFFSET)
    corners = corners_of(taps, n_in, TAPS, DIM)
    begin = tl.program_id(1) * share * BLOCK
    for c in range(begin, tl.minimum(begin + share * BLOCK, channels), BLOCK):
        channel = (c + tl.arange(0, BLOCK)[None, :]).to(OFFSET)
        there = channel < channels
        total = tl.zeros((X * Y * Z, BLOCK), WORK)
        for number in tl.static_range(TAPS**DIM):
            position, exists, weight, rises = corners[number]
            at = position * pixel_stride + channel * in_stride
            total += weight * tl.load(input + at, exists & there, 0).to(WORK)
        tl.store(
            out + to * pixel_stride + channel * out_stride,
            total.to(out.dtype.element_ty),
            inside & there,
        )


@triton.jit
def store_row(to, q, unit, maps, first, step, DIM: tl.constexpr):
    """A tile's part of the gradient of one row of a matrix, with unit * q that of its products."""
    total = tl.sum(q).to(tl.float64)
    for j in tl.static_range(DIM):
        moment = tl.sum(q * step[j]).to(tl.float64) + total * first[j]
        tl.store(to + j, unit * (maps[j][0] * moment + maps[j][1] * total))
    tl.store(to + DIM, unit * total)


@triton.jit(do_not_specialize=[*SIZES, "stride_row", "grad_stride_row"])
def backward_kernel(
    grad,
    input,
    places,
    grad_input,
    fixed,
    scale,
    grad_places,
    images,
    rows,
    channels,
    in_x,
    in_y,
    in_z,
    out_x,
    out_y,
    out_z,
    share,
    stride_row,
    stride_point,
    stride_axis,
    grad_stride_row,
    grad_stride_point,
    grad_stride_axis,
    INPUT: tl.constexpr,
    PLACES: tl.constexpr,
    FIXED: tl.constexpr,
    X: tl.constexpr,
    Y: tl.constexpr,
    Z: tl.constexpr,
    BLOCK: tl.constexpr,
    LAST: tl.constexpr,
    OFFSET: tl.constexpr,
    WORK: tl.constexpr,
    DIM: tl.constexpr,
    KIND: tl.constexpr,
    TAPS: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """Gradients to INPUT and to PLACES: a field's, or what this program adds to a matrix'.

    The image's gradient is summed by atomic additions, whose order is not fixed. With FIXED they
    are of integers, in units of 1 / scale, which have one sum in any order; what is not finite is
    added to `grad_input`, and is so in any order.
    """
    n_in = (in_x, in_y, in_z)
    n_out = (out_x, out_y, out_z)
    tiles = tl.cdiv(out_x, X) * tl.cdiv(out_y, Y) * tl.cdiv(out_z, Z)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    first, step, inside = tile_of(tl.program_id(0) % tiles, n_out, X, Y, Z)
    place, maps, shift, w = places_of(
        places, row, stride_row, stride_point, stride_axis, n_in, n_out, first, step, inside,
        DIM, KIND, PADDING, ALIGN, WORK,
    )  # fmt: skip
    pixels = in_x.to(OFFSET) * in_y * in_z
    targets = out_x.to(OFFSET) * out_y * out_z
    pixel_stride = channels if LAST else 1
    in_stride = 1 if LAST else pixels
    out_stride = 1 if LAST else targets
    image = row // (rows // images) * channels * pixels
    grad += row * channels * targets
    point = point_of(
        (
            (first[0] + step[0]).to(OFFSET),
            (first[1] + step[1]).to(OFFSET),
            (first[2] + step[2]).to(OFFSET),
        ),
        n_out,
    )
    taps = taps_of(place, n_in, TAPS, DIM, MODE, PADDING, ALIGN, OFFSET)
    corners = corners_of(taps, n_in, TAPS, DIM)
    gx = tl.zeros((X * Y * Z, BLOCK), WORK)
    gy = tl.zeros((X * Y * Z, BLOCK), WORK)
    gz = tl.zeros((X * Y * Z, BLOCK), WORK)
    begin = tl.program_id(1) * share * BLOCK
    for c in range(begin, tl.minimum(begin + share * BLOCK, channels), BLOCK):
        channel = (c + tl.arange(0, BLOCK)[None, :]).to(OFFSET)
        there = channel < channels
        up = tl.load(grad + point * pixel_stride + channel * out_stride, inside & there, 0).to(WORK)
        for number in tl.static_range(TAPS**DIM):
            position, exists, weight, rises = corners[number]
            at = image + (position * pixel_stride + channel * in_stride)
            exists = exists & there
            if PLACES and MODE != "nearest":
                value = up * tl.load(input + at, exists, 0).to(WORK)
                gx += value * rises[0]
                gy += value * rises[1]
                if DIM == 3:
                    gz += value * rises[2]
            if INPUT:
                part = weight * up
                if FIXED:
                    good = tl.abs(part) < INFINITY
                    units = tl.where(good, part, 0).to(tl.float64) * tl.load(scale)
                    units = tl.floor(units + 0.5).to(tl.int64)
                    tl.atomic_add(fixed + at, units, exists & good, sem="relaxed")
                    tl.atomic_add(grad_input + at, part, exists & (good == 0), sem="relaxed")
                else:
                    tl.atomic_add(grad_input + at, part, exists, sem="relaxed")
    if PLACES:
        g = (
            tl.sum(gx, 1, keep_dims=True),
            tl.sum(gy, 1, keep_dims=True),
            tl.sum(gz, 1, keep_dims=True),
        )
        if KIND == "affine" or KIND == "projective":
            lines: tl.constexpr = DIM + (KIND == "projective")
            program = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
            to = grad_places + program * lines * (DIM + 1)
            turn = tl.zeros(w.shape, WORK)
            for i in tl.static_range(DIM):
                q = g[i]
                if KIND == "projective":
                    q = q / w
                    turn -= q * shift[i]
                store_row(to + i * (DIM + 1), q, maps[i][4], maps, first, step, DIM)
            if KIND == "projective":
                store_row(to + DIM * (DIM + 1), turn, 1.0, maps, first, step, DIM)
        else:
            to = grad_places + row * grad_stride_row + point.to(tl.int64) * grad_stride_point
            for i in tl.static_range(DIM):
                value = g[i].to(tl.float64)
                if KIND == "grid" or KIND == "flow":
                    value *= maps[i][4]
                tl.store(to + i * grad_stride_axis, value.to(grad_places.dtype.element_ty), inside)
