"""Triton kernels that make views: resize, blur, the fit of the colours, and colours with normalisation.

``fused.py`` calls them and documents their arguments. Each program computes a part of one view; its first grid index
is the view, counted through V · B. No program adds to another's result, so the same views always have the same bits.
Triton recompiles a kernel for an integer argument that is 1 or a multiple of 16, unless it is told not to specialise.
"""

import triton
import triton.language as tl


@triton.jit
def _filter(distance, bicubic: tl.constexpr):
    """The triangle filter, or Keys' cubic with a = -0.5."""
    x = tl.abs(distance)
    if bicubic:
        near = (1.5 * x - 2.5) * x * x + 1
        far = ((-0.5 * x + 2.5) * x - 4) * x + 2
        return tl.where(x < 1, near, tl.where(x < 2, far, 0.0))
    return tl.maximum(1 - x, 0.0)


@triton.jit
def _places(pixel, length, side, reach):
    """For pixels of the view along an axis: the first contributing pixel of the crop, its distance from the centre in
    filter units, the inverse of that unit, and how many pixels contribute. Subtracts pixels in float64."""
    scale = length / side
    widening = tl.maximum(scale, 1.0)
    centre = (pixel.to(tl.float64) + 0.5) * scale
    first = tl.floor(centre - reach * widening + 0.5)
    distance = ((first - (centre - 0.5)) / widening).to(tl.float32)
    taps = 2 * tl.ceil(reach * widening).to(tl.int32) + 1
    return first.to(tl.int32), distance, (1 / widening).to(tl.float32), taps


@triton.jit(do_not_specialize=["batch", "tiles"])
def resize(
    pixels, placed, boxes, flip, out, sums, batch, side, tiles, reach: tl.constexpr, bicubic: tl.constexpr,
    size: tl.constexpr, count: tl.constexpr,
):  # fmt: skip
    """One tile of one view: crops, resizes with antialias, flips, and sums its colours."""
    view, tile = tl.program_id(0), tl.program_id(1)
    image = placed + (view % batch) * 5
    image_width, start = tl.load(image).to(tl.int64), tl.load(image + 4).to(tl.int64)
    left, top = tl.load(boxes + view * 4), tl.load(boxes + view * 4 + 1)
    width, height = tl.load(boxes + view * 4 + 2) - left, tl.load(boxes + view * 4 + 3) - top
    start += top.to(tl.int64) * image_width + left.to(tl.int64)  # start of the crop, in pixels
    last_x, last_y = width.to(tl.int32) - 1, height.to(tl.int32) - 1

    rows = (tile // tiles) * size + tl.arange(0, size)
    columns = (tile % tiles) * size + tl.arange(0, size)
    source = tl.where(tl.load(flip + view) != 0, side - 1 - columns, columns)
    first_x, distance_x, step_x, taps_x = _places(source, width, side, reach)
    first_y, distance_y, step_y, taps_y = _places(rows, height, side, reach)
    total_x = tl.zeros([size], tl.float32)
    for tap in range(0, taps_x):
        inside = (first_x + tap >= 0) & (first_x + tap <= last_x)
        total_x += tl.where(inside, _filter(distance_x + tap * step_x, bicubic), 0.0)
    total_y = tl.zeros([size], tl.float32)
    red = tl.zeros([size, size], tl.float32)
    green, blue = red, red
    in_view = (rows < side)[:, None] & (columns < side)[None, :]
    begin = tl.maximum(tl.min(first_y), 0)
    end = tl.minimum(tl.max(tl.where(rows < side, first_y, 0)) + taps_y, last_y + 1)
    for y in range(begin, end, count):
        line = y + tl.arange(0, count)
        weight_y = _filter(distance_y[:, None] + (line[None, :] - first_y[:, None]) * step_y, bicubic)
        weight_y = tl.where((line < end)[None, :], weight_y, 0.0)
        total_y += tl.sum(weight_y, 1)
        r = tl.zeros([count, size], tl.float32)
        g, b = r, r
        for tap in range(0, taps_x):
            x = first_x + tap
            inside = (x >= 0) & (x <= last_x)
            weight_x = tl.where(inside, _filter(distance_x + tap * step_x, bicubic), 0.0)[None, :]
            at = pixels + (start + line.to(tl.int64)[:, None] * image_width + x[None, :]) * 3
            there = (line < end)[:, None] & (inside & (columns < side))[None, :]
            r += weight_x * tl.load(at, there, 0).to(tl.float32)
            g += weight_x * tl.load(at + 1, there, 0).to(tl.float32)
            b += weight_x * tl.load(at + 2, there, 0).to(tl.float32)
        red = tl.dot(weight_y, r, red, input_precision="ieee")
        green = tl.dot(weight_y, g, green, input_precision="ieee")
        blue = tl.dot(weight_y, b, blue, input_precision="ieee")
    total = total_y[:, None] * total_x[None, :]
    red, green, blue = red / total, green / total, blue / total
    plane = side * side
    at = out + view.to(tl.int64) * 3 * plane + rows[:, None] * side + columns[None, :]
    tl.store(at, red, in_view)
    tl.store(at + plane, green, in_view)
    tl.store(at + 2 * plane, blue, in_view)
    of_tile = sums + (view * tiles * tiles + tile) * 3
    tl.store(of_tile, tl.sum(tl.where(in_view, red, 0.0)))
    tl.store(of_tile + 1, tl.sum(tl.where(in_view, green, 0.0)))
    tl.store(of_tile + 2, tl.sum(tl.where(in_view, blue, 0.0)))


@triton.jit(do_not_specialize=["half"])
def blur(source, sigma, target, side, step, half, block: tl.constexpr):
    """Blurs the views with a sigma above 0 along one axis, whose neighbours are ``step`` numbers apart; skips the
    rest."""
    view = tl.program_id(0)
    width = tl.load(sigma + view)
    if width > 0:
        count = 3 * side * side
        first = view.to(tl.int64) * count
        at = tl.program_id(1) * block + tl.arange(0, block)
        inside = at < count
        place = (at // step) % side
        found = tl.zeros([block], tl.float32)
        total = 0.0
        for offset in range(-half, half + 1):
            weight = tl.exp(-0.5 * (offset / width) * (offset / width))
            reflected = tl.abs(place + offset)
            reflected = tl.minimum(reflected, 2 * (side - 1) - reflected)
            found += weight * tl.load(source + first + at + (reflected - place) * step, inside, 0.0)
            total += weight
        tl.store(target + first + at, found / total, inside)


@triton.jit
def _step(red, green, blue, mean_r, mean_g, mean_b, blend):
    """One linear step on colours and their mean: rows of ``[3, 6]``."""
    r = tl.load(blend) * red + tl.load(blend + 1) * green + tl.load(blend + 2) * blue
    r += tl.load(blend + 3) * mean_r + tl.load(blend + 4) * mean_g + tl.load(blend + 5) * mean_b
    g = tl.load(blend + 6) * red + tl.load(blend + 7) * green + tl.load(blend + 8) * blue
    g += tl.load(blend + 9) * mean_r + tl.load(blend + 10) * mean_g + tl.load(blend + 11) * mean_b
    b = tl.load(blend + 12) * red + tl.load(blend + 13) * green + tl.load(blend + 14) * blue
    b += tl.load(blend + 15) * mean_r + tl.load(blend + 16) * mean_g + tl.load(blend + 17) * mean_b
    return r, g, b


@triton.jit
def _clamped(x):
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit
def _of_channel(place, turned, high, chroma):
    sixths = place + turned
    sixths -= 6 * tl.floor(sixths / 6)
    return high - _clamped(tl.minimum(sixths, 4 - sixths)) * chroma


@triton.jit
def _turn(red, green, blue, turns):
    """Same as ``colour.turn_hue``."""
    high = tl.maximum(tl.maximum(red, green), blue)
    chroma = high - tl.minimum(tl.minimum(red, green), blue)
    leaning = tl.where(red == high, green - blue, tl.where(green == high, blue - red, red - green))
    sixth = tl.where(red == high, 0.0, tl.where(green == high, 2.0, 4.0))
    turned = leaning / tl.maximum(chroma, 1e-12) + sixth + 6 * turns
    return (
        _of_channel(5.0, turned, high, chroma),
        _of_channel(3.0, turned, high, chroma),
        _of_channel(1.0, turned, high, chroma),
    )


@triton.jit
def _grey(red, green, blue):
    return 0.2989 * red + 0.587 * green + 0.114 * blue


@triton.jit
def _linear(red, green, blue, mean_r, mean_g, mean_b, maps, grey):
    """All jitter steps and grey, without clamps: ``colour.colour_matrix`` applied to colours."""
    for k in tl.static_range(4):
        blend = maps + k * 36
        r, g, b = _step(red, green, blue, mean_r, mean_g, mean_b, blend)
        # A mean transforms like a colour that is its own mean (the lower half of a step's map).
        mean_r, mean_g, mean_b = _step(mean_r, mean_g, mean_b, mean_r, mean_g, mean_b, blend)
        red, green, blue = r, g, b
    if grey:
        red = _grey(red, green, blue)
        green, blue = red, red
    return red, green, blue


@triton.jit(do_not_specialize=["batch"])
def fit(
    pixels, placed, boxes, maps, is_hue, turns, turns_step, grey, means, affine, batch, ridge, points: tl.constexpr
):
    """Fits the colours of one view: ``colour.fitted`` on a grid of ``points`` by ``points`` of its crop."""
    view = tl.program_id(0)
    image = placed + (view % batch) * 5
    image_width, start = tl.load(image).to(tl.int64), tl.load(image + 4).to(tl.int64)
    left, top = tl.load(boxes + view * 4), tl.load(boxes + view * 4 + 1)
    width, height = tl.load(boxes + view * 4 + 2) - left, tl.load(boxes + view * 4 + 3) - top
    point = tl.arange(0, points * points)
    x = tl.floor(left + width * (((point % points).to(tl.float64) + 0.5) / points)).to(tl.int64)
    y = tl.floor(top + height * (((point // points).to(tl.float64) + 0.5) / points)).to(tl.int64)
    at = pixels + (start + y * image_width + x) * 3
    red, green, blue = (tl.load(at).to(tl.float32) / 255, tl.load(at + 1).to(tl.float32) / 255,
                        tl.load(at + 2).to(tl.float32) / 255)  # fmt: skip
    count: tl.constexpr = points * points
    maps, is_grey = maps + view * 144, tl.load(grey + view) != 0

    # Step by step with every clamp, as torchvision.
    r, g, b = red, green, blue
    for k in tl.static_range(4):
        if tl.load(is_hue + view * 4 + k) != 0:
            r, g, b = _turn(r, g, b, tl.load(turns + view * turns_step))
        else:
            r, g, b = _step(r, g, b, tl.sum(r) / count, tl.sum(g) / count, tl.sum(b) / count, maps + k * 36)
            r, g, b = _clamped(r), _clamped(g), _clamped(b)
    if is_grey:
        r = _grey(r, g, b)
        g, b = r, r

    # The residual after composition and one clamp, and its ridge regression on the colours.
    sum_r, sum_g, sum_b = tl.sum(red), tl.sum(green), tl.sum(blue)
    cr, cg, cb = _linear(red, green, blue, sum_r / count, sum_g / count, sum_b / count, maps, is_grey)
    r, g, b = r - _clamped(cr), g - _clamped(cg), b - _clamped(cb)
    f2, f3, f4, a22, a23, a24, a33, a34, a44 = _factors(red, green, blue, sum_r, sum_g, sum_b, count, ridge)
    a11 = tl.sum(red * red) + ridge

    # Read the affine map off its values at red, green, blue and black.
    corner = tl.arange(0, 4)
    mean_r, mean_g, mean_b = tl.load(means + view * 3), tl.load(means + view * 3 + 1), tl.load(means + view * 3 + 2)
    cr, cg, cb = _linear((corner == 0).to(tl.float32), (corner == 1).to(tl.float32), (corner == 2).to(tl.float32),
                         mean_r, mean_g, mean_b, maps, is_grey)  # fmt: skip
    to = affine + view * 12 + corner
    tl.store(to, _row(cr, r, red, green, blue, a11, f2, f3, f4, a22, a23, a24, a33, a34, a44))
    tl.store(to + 4, _row(cg, g, red, green, blue, a11, f2, f3, f4, a22, a23, a24, a33, a34, a44))
    tl.store(to + 8, _row(cb, b, red, green, blue, a11, f2, f3, f4, a22, a23, a24, a33, a34, a44))


@triton.jit
def _factors(red, green, blue, sum_r, sum_g, sum_b, count, ridge):
    """Gaussian elimination of the symmetric moment matrix of (red, green, blue, 1); the ridge makes pivoting
    unnecessary."""
    a11, a12, a13 = tl.sum(red * red) + ridge, tl.sum(red * green), tl.sum(red * blue)
    f2, f3, f4 = a12 / a11, a13 / a11, sum_r / a11
    a22 = tl.sum(green * green) + ridge - f2 * a12
    a23, a24 = tl.sum(green * blue) - f2 * a13, sum_g - f2 * sum_r
    a33 = tl.sum(blue * blue) + ridge - f3 * a13 - a23 / a22 * a23
    a34 = sum_b - f3 * sum_r - a23 / a22 * a24
    a44 = count + ridge - f4 * sum_r - a24 / a22 * a24 - a34 / a33 * a34
    return f2, f3, f4, a22, a23, a24, a33, a34, a44


@triton.jit
def _row(corners, missing, red, green, blue, a11, f2, f3, f4, a22, a23, a24, a33, a34, a44):
    """One channel's row of the affine map, ``[4]``, from its values at the corners and its residual."""
    v1 = tl.sum(missing * red)
    v2 = tl.sum(missing * green) - f2 * v1
    v3 = tl.sum(missing * blue) - f3 * v1 - a23 / a22 * v2
    v4 = tl.sum(missing) - f4 * v1 - a24 / a22 * v2 - a34 / a33 * v3
    x4 = v4 / a44
    x3 = (v3 - a34 * x4) / a33
    x2 = (v2 - a23 * x3 - a24 * x4) / a22
    x1 = v1 / a11 - f2 * x2 - f3 * x3 - f4 * x4
    corner = tl.arange(0, 4)
    black = tl.sum(tl.where(corner == 3, corners, 0.0))
    found = tl.where(corner == 0, x1, tl.where(corner == 1, x2, tl.where(corner == 2, x3, x4)))
    return found + tl.where(corner == 3, corners, corners - black)


@triton.jit
def finish(out, affine, solarize, plane, threshold, mean_r, mean_g, mean_b, std_r, std_g, std_b, block: tl.constexpr):
    """Applies colours, clamp, solarize and normalisation to some pixels of one view, in place."""
    view = tl.program_id(0)
    at = tl.program_id(1) * block + tl.arange(0, block)
    inside = at < plane
    at = out + view.to(tl.int64) * 3 * plane + at
    red = tl.load(at, inside, 0.0) / 255
    green = tl.load(at + plane, inside, 0.0) / 255
    blue = tl.load(at + 2 * plane, inside, 0.0) / 255
    inverted = tl.load(solarize + view) != 0
    row = affine + view * 12
    r = _toned(red, green, blue, row, inverted, threshold)
    g = _toned(red, green, blue, row + 4, inverted, threshold)
    b = _toned(red, green, blue, row + 8, inverted, threshold)
    tl.store(at, (r - mean_r) / std_r, inside)
    tl.store(at + plane, (g - mean_g) / std_g, inside)
    tl.store(at + 2 * plane, (b - mean_b) / std_b, inside)


@triton.jit
def _toned(red, green, blue, row, inverted, threshold):
    x = tl.load(row) * red + tl.load(row + 1) * green + tl.load(row + 2) * blue + tl.load(row + 3)
    x = _clamped(x)
    return tl.where(inverted & (x >= threshold), 1 - x, x)
