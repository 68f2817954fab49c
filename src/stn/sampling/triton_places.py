"""Where the Triton kernels read: the places of a tile of targets, and the pixels around them.

The arithmetic of native/call.h and native/scalar.h. Coordinates are pixels of the input, x first.
A place is kept as a whole number of pixels and a fraction, so that float32 holds the fraction as
well at the far end of a large image as at its beginning. Per-target values are columns (targets,
1), which meet channels (1, channels). Tuples have one entry an axis.
"""

# Kernels are not quite Python: tuples grow by addition, and types are Triton's.
# ruff: noqa: RUF005
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportAssignmentType=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

FAR = tl.constexpr(2.0**29)  # px; beyond any image, and an index that fits 32 bits
STEEP = tl.constexpr(2.0)  # px per target; below it float32 holds the places of a tile
NEAREST_W = tl.constexpr(1e-6)  # as transforms/projective.py
INFINITY = tl.constexpr(float("inf"))


@triton.jit
def axis_map(n_in, n_out, ALIGN: tl.constexpr):
    """(step, start, slope, offset, unit, centre) of one axis, float64: AxisMap of native/call.h."""
    n = n_in.to(tl.float64)
    m = n_out.to(tl.float64)
    centre = (n - 1) * 0.5
    if ALIGN:
        many = m > 1
        inverse = tl.where(many, 1 / tl.where(many, m - 1, 1), 0)
        step = 2 * inverse
        start = tl.where(many, -1.0, 0.0).to(tl.float64)
        slope = tl.where(n == m, 1.0, (n - 1) * inverse)
        offset = tl.where(many, 0.0, centre)
        unit = centre
    else:
        inverse = 1 / m
        step = 2 * inverse
        start = inverse - 1
        slope = tl.where(n == m, 1.0, n * inverse)
        offset = (slope - 1) * 0.5
        unit = n * 0.5
    return step, start, slope, offset, unit, centre


@triton.jit
def tile_of(number, n, X: tl.constexpr, Y: tl.constexpr, Z: tl.constexpr):
    """A tile of targets in outputs of size n: its first, the steps from there, which exist."""
    across = tl.cdiv(n[0], X)
    down = tl.cdiv(n[1], Y)
    first = (number % across * X, number // across % down * Y, number // (across * down) * Z)
    lane = tl.arange(0, X * Y * Z)[:, None]
    step = (lane % X, lane // X % Y, lane // (X * Y))
    inside = first[0] + step[0] < n[0]
    inside = inside & (first[1] + step[1] < n[1]) & (first[2] + step[2] < n[2])
    return first, step, inside


@triton.jit
def line_of(entries, maps, DIM: tl.constexpr):
    """One row of a matrix on normalised places (p, 1) as coefficients of target indices (t, 1)."""
    last = tl.load(entries + DIM).to(tl.float64)
    line = ()
    for j in tl.static_range(DIM):
        entry = tl.load(entries + j).to(tl.float64)
        last += entry * maps[j][1]
        line = line + (entry * maps[j][0],)
    return line + (last,)


@triton.jit
def along(line, target, DIM: tl.constexpr):
    """The value of such a line at target indices."""
    total = line[DIM]
    for j in tl.static_range(DIM):
        total += line[j] * target[j]
    return total


@triton.jit
def pixel_line(line, rise, map, i: tl.constexpr, DIM: tl.constexpr):
    """w px_i as coefficients of (t, 1): identity + centre * rise + unit * line."""
    out = ()
    for j in tl.static_range(DIM + 1):
        value = map[4] * line[j] + map[5] * rise[j]
        if j == i:
            value += map[2]
        if j == DIM:
            value += map[3]
        out = out + (value,)
    return out


@triton.jit
def period_of(n, PADDING: tl.constexpr, ALIGN: tl.constexpr):
    if PADDING == "wrap":
        period = n
    elif PADDING == "reflection" and not ALIGN:
        period = 2 * n
    else:
        period = tl.maximum(2 * n - 2, 1)
    return period


@triton.jit
def split(x, n, PADDING: tl.constexpr, ALIGN: tl.constexpr):
    """Whether x is finite, and its whole and fractional part; far off, of what reads the same."""
    finite = tl.abs(x) < INFINITY
    if PADDING != "zeros" and PADDING != "border":
        period = period_of(n, PADDING, ALIGN).to(x.dtype)
        x = tl.where(tl.abs(x) < FAR, x, x - tl.floor(x / period) * period)
    x = tl.minimum(tl.maximum(x, -FAR), FAR)  # NaN too is a number from here on
    below = tl.floor(x)
    return finite, below.to(tl.int32), x - below


@triton.jit
def near_place(
    line,
    first,
    step,
    n,
    DIM: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGN: tl.constexpr,
    WORK: tl.constexpr,
):
    """`split` of a line's values at a tile's targets: float64 for the first, steps in WORK."""
    good, base, rest = split(along(line, first, DIM), n, PADDING, ALIGN)
    px = tl.where(good, rest, INFINITY).to(WORK)
    for j in tl.static_range(DIM):
        px += line[j].to(WORK) * step[j]
    good, whole, rest = split(px, n, PADDING, ALIGN)
    return good, whole + base, rest


@triton.jit
def matrix_places(
    entries,
    maps,
    n,
    first,
    step,
    DIM: tl.constexpr,
    PROJECTIVE: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGN: tl.constexpr,
    WORK: tl.constexpr,
):
    """finite, index, fraction, px - centre and w of targets under a matrix minus the identity."""
    finite = step[0] == step[0]
    target = (first[0] + step[0], first[1] + step[1], first[2] + step[2])
    index = ()
    fraction = ()
    shift = ()
    w = tl.full(step[0].shape, 1, WORK)
    rise = (0.0, 0.0, 0.0, 0.0)
    if PROJECTIVE:
        rise = line_of(entries + DIM * (DIM + 1), maps, DIM)
        w = 1 + along(rise, target, DIM)
        finite = w > NEAREST_W
        w = tl.where(finite, w, 1)
    for i in tl.static_range(DIM):
        line = pixel_line(line_of(entries + i * (DIM + 1), maps, DIM), rise, maps[i], i, DIM)
        if PROJECTIVE:
            px = along(line, target, DIM) / w
            good, whole, rest = split(px, n[i], PADDING, ALIGN)
            shift = shift + (tl.where(good, px - maps[i][5], 0).to(WORK),)
        else:
            steepest = tl.maximum(tl.abs(line[0]), tl.abs(line[1]))
            if DIM == 3:
                steepest = tl.maximum(steepest, tl.abs(line[2]))
            if steepest > STEEP:
                good, whole, rest = split(along(line, target, DIM), n[i], PADDING, ALIGN)
                rest = rest.to(WORK)
            else:
                good, whole, rest = near_place(line, first, step, n[i], DIM, PADDING, ALIGN, WORK)
        finite = finite & good
        index = index + (whole,)
        fraction = fraction + (rest.to(WORK),)
    return finite, index, fraction, shift, w.to(WORK)


@triton.jit
def field_places(
    field,
    stride_point,
    stride_axis,
    maps,
    n,
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
    """finite, index and fraction of the targets of a field."""
    finite = inside
    index = ()
    fraction = ()
    target = (first[0] + step[0], first[1] + step[1], first[2] + step[2])
    point = point_of(target, n_out).to(tl.int64)
    for i in tl.static_range(DIM):
        px = tl.load(field + point * stride_point + i * stride_axis, inside, 0).to(tl.float64)
        if KIND == "grid":
            px = px * maps[i][4] + maps[i][5]
        if KIND == "flow":
            px = px * maps[i][4]
        if KIND == "flow" or KIND == "flow_px":
            px += maps[i][2] * target[i] + maps[i][3]
        good, whole, rest = split(px, n[i], PADDING, ALIGN)
        finite = finite & good
        index = index + (whole,)
        fraction = fraction + (rest.to(WORK),)
    return finite, index, fraction


@triton.jit
def point_of(index, n):
    """Position of a pixel in the row-major list of those of an image of size n."""
    return (index[2] * n[1] + index[1]) * n[0] + index[0]


@triton.jit
def modulo(a, n):
    rest = a % n
    return tl.where(rest < 0, rest + n, rest)


@triton.jit
def fold(index, t, n, PADDING: tl.constexpr, ALIGN: tl.constexpr):
    """A place near the image that reads the same; and the sign of the derivative."""
    sign = tl.full(t.shape, 1, t.dtype)
    if PADDING == "wrap":
        index = modulo(index, n)
    if PADDING == "reflection" or PADDING == "mirror":
        period = period_of(n, PADDING, ALIGN)
        index = modulo(index, period)
        some = (t > 0).to(tl.int32)
        if PADDING == "reflection" and not ALIGN:  # the mirrors are the outer edges
            half = index + (t >= 0.5).to(tl.int32)
            turned = (half >= n) & (half < period)
            back = period - 1 - index - some
        else:
            turned = index >= n - 1
            back = period - index - some
            wide = n > 1  # one pixel between two mirrors at its centre
            back = tl.where(wide, back, 0)
            t = tl.where(wide, t, 0)
            sign = tl.where(wide, sign, 0)
        index = tl.where(turned, back, index)
        t = tl.where(turned & (t > 0), 1 - t, t)
        sign = tl.where(turned, -sign, sign)
    return index, t, sign


@triton.jit
def tap(index, n, PADDING: tl.constexpr, ALIGN: tl.constexpr):
    """The pixel that a tap reads, and whether there is one."""
    inside = index == index
    if PADDING == "zeros":
        inside = (index >= 0) & (index < n)
    elif PADDING == "border":
        index = tl.minimum(tl.maximum(index, 0), n - 1)
    elif PADDING == "wrap":
        index = modulo(index, n)
    else:
        period = period_of(n, PADDING, ALIGN)
        index = modulo(index, period)
        back = period - index
        if PADDING == "reflection" and not ALIGN:
            back -= 1
        index = tl.where(index >= n, back, index)
    return index, inside


@triton.jit
def weight_of(t, k: tl.constexpr, MODE: tl.constexpr):
    """Weight of tap k of a sample at fraction t, and its derivative."""
    one = tl.full(t.shape, 1, t.dtype)
    if MODE == "nearest":
        weight = one
        slope = one - one
    elif MODE == "bilinear":
        weight = t if k == 1 else 1 - t
        slope = one if k == 1 else -one
    else:  # Keys, a = -0.75
        d = t + 1 - k if k < 2 else k - 1 - t
        if k == 1 or k == 2:
            weight = (1.25 * d - 2.25) * d * d + 1
            slope = (3.75 * d - 4.5) * d
        else:
            weight = ((-0.75 * d + 3.75) * d - 6) * d + 3
            slope = (-2.25 * d + 7.5) * d - 6
        if k >= 2:
            slope = -slope
    return weight, slope


@triton.jit
def taps_of(
    place,
    n,
    TAPS: tl.constexpr,
    DIM: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGN: tl.constexpr,
    OFFSET: tl.constexpr,
):
    """For each axis, for each of its taps: pixel, whether there is one, weight, d weight / d px."""
    finite, index, fraction = place
    axes = ()
    for i in tl.static_range(DIM):
        base, t, sign = fold(index[i], fraction[i], n[i], PADDING, ALIGN)
        if MODE == "nearest":  # half to even
            up = (t > 0.5) | ((t == 0.5) & (base % 2 != 0))
            base += up.to(tl.int32)
        taps = ()
        for k in tl.static_range(TAPS):
            pixel, exists = tap(base + k - (TAPS - 1) // 2, n[i], PADDING, ALIGN)
            weight, slope = weight_of(t, k, MODE)
            taps = taps + ((pixel.to(OFFSET), finite & exists, weight, sign * slope),)
        axes = axes + (taps,)
    return axes


@triton.jit
def corners_of(axes, n, TAPS: tl.constexpr, DIM: tl.constexpr):
    """The TAPS**DIM pixels that a sample reads: position, whether there is one, weight, d weight
    / d px.
    """
    corners = ()
    for number in tl.static_range(TAPS**DIM):
        x, x_exists, x_weight, x_slope = axes[0][number % TAPS]
        y, y_exists, y_weight, y_slope = axes[1][number // TAPS % TAPS]
        position = y * n[0] + x
        exists = x_exists & y_exists
        weight = x_weight * y_weight
        rises = (x_slope * y_weight, x_weight * y_slope)
        if DIM == 3:
            z, z_exists, z_weight, z_slope = axes[2][number // (TAPS * TAPS)]
            position += z * n[1] * n[0]
            exists = exists & z_exists
            rises = (rises[0] * z_weight, rises[1] * z_weight, weight * z_slope)
            weight = weight * z_weight
        corners = corners + ((position, exists, weight, rises),)
    return corners
