"""Kernels of a training step of ReLU networks with one hidden layer, in Triton.

A hidden activation is made in registers, used and forgotten: the backward kernel makes it anew,
which costs less than writing (models, batch, width) to memory and reading it about ten times.
Nothing is summed by atomics, and how a sum is split depends on the sizes of one model alone: a
model's bits are the same each time, and do not depend on the other models.

Layouts are those of :class:`lipdescent.training.engines.fused_mlp.StackedMLP`: w1 (models,
features, width), w2 (models, classes, width), b1 (models, width), b2 (models, classes); slopes of
the mean loss at the logits are (models, batch, CP), and the inputs xs (models, batch, FX). These
two lie split in memory, (3, models, ...), as the forward pass leaves them: the backward kernel
reads them where the tensor cores do, and splits none of them again. Features are taken in two parts
of FA and FB, classes padded to CP: powers of two. ROWS samples or UNITS hidden units are a tile.
BIAS says whether there are biases. PRODUCTS is the precision of ``tl.dot``, or "bf16x6": factors
are split here, each once and not at each product, and NaN are not looked for. Products with
activations need no exchange between threads in bfloat16, as they would in tf32.
"""

# No ``from __future__ import annotations``, and no annotations but Triton's own: it reads them.
import triton
import triton.language as tl
from triton.language import constexpr

# Numbers of which no code of their own is wanted for each multiple of 16.
PLAIN = ["batch", "targets", "rates", "target_model", "target_row", "target_class"]
INTERPRETED = constexpr(triton.knobs.runtime.interpret)


@triton.jit
def relu(h):
    return tl.maximum(h, 0.0, propagate_nan=tl.PropagateNan.ALL)  # as in PyTorch


@triton.jit
def cut(a):
    """The first 8 bits of float32 numbers, as bfloat16, and the rest: no conversion, which is slow.

    Of NaN and inf the rest is NaN.
    """
    bits = a.to(tl.int32, bitcast=True)
    high = (bits & -65536).to(tl.float32, bitcast=True)
    if INTERPRETED:  # the interpreter's bfloat16 are integers to its products
        return high, a - high
    return (bits >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True), a - high


@triton.jit
def split(a, PRODUCTS: constexpr):
    """Three factors of 8 bits whose sum is ``a`` to its last bit; else ``a`` as it is."""
    if PRODUCTS == "bf16x6":
        high, rest = cut(a)
        middle, rest = cut(rest)
        low, _ = cut(rest)
        return high, middle, low
    else:
        return a, a, a


@triton.jit
def pick(a, which):
    """Of ``a`` its first, second or third part, as ``which`` says by 0, 1 and 2."""
    _, second = cut(a)
    _, third = cut(second)
    part, _ = cut(tl.where(which == 0, a, tl.where(which == 1, second, third)))
    return part


@triton.jit
def beside(a, b):
    return tl.reshape(tl.permute(tl.join(a, b), (0, 2, 1)), (a.shape[0], 2 * a.shape[1]))


@triton.jit
def below(a, b):
    return tl.reshape(tl.permute(tl.join(a, b), (2, 0, 1)), (2 * a.shape[0], a.shape[1]))


@triton.jit
def dot(a, b, c):
    if INTERPRETED:
        return tl.dot(a, b, c, input_precision="ieee")
    return tl.dot(a, b, c)


@triton.jit
def product(a, b, PRODUCTS: constexpr, JOINED: constexpr = False):
    """Product of two split matrices.

    Of the nine products of parts the three least, of 2^-22 and less, are left out. Small ones come
    first: tensor cores cut off what a sum's last bit does not hold, and large sums are thus few.
    JOINED, they are two products of longer sums: a program waits for each product to end.
    """
    if PRODUCTS == "bf16x6":
        c = tl.zeros((a[0].shape[0], b[0].shape[1]), dtype=tl.float32)
        if JOINED:
            first = beside(beside(a[2], a[0]), beside(a[1], a[1]))
            c = dot(first, below(below(b[0], b[2]), below(b[1], b[0])), c)
            return dot(beside(a[0], a[0]), below(b[1], b[0]), c)
        c = dot(a[2], b[0], c)
        c = dot(a[0], b[2], c)
        c = dot(a[1], b[1], c)
        c = dot(a[1], b[0], c)
        c = dot(a[0], b[1], c)
        return dot(a[0], b[0], c)
    else:
        return tl.dot(a[0], b[0], input_precision=PRODUCTS)


@triton.jit
def trans(a):
    return tl.trans(a[0]), tl.trans(a[1]), tl.trans(a[2])


@triton.jit
def read(start, rows, row_stride, num_rows, columns, column_stride, num_columns):
    """A tile (rows, columns) of a matrix, zeros outside of it."""
    inside = (rows[:, None] < num_rows) & (columns[None, :] < num_columns)
    at = rows[:, None] * row_stride + columns[None, :] * column_stride
    return tl.load(start + at, mask=inside, other=0.0)


@triton.jit
def write_split(start, parts, at, inside, plane, PRODUCTS: constexpr):
    """Parts of a split matrix, ``plane`` numbers apart; one alone where it is not split."""
    tl.store(start + at, parts[0], mask=inside)
    if PRODUCTS == "bf16x6":
        tl.store(start + plane + at, parts[1], mask=inside)
        tl.store(start + 2 * plane + at, parts[2], mask=inside)


@triton.jit
def read_split(start, at, inside, plane, PRODUCTS: constexpr):
    """What :func:`write_split` wrote: it goes to the tensor cores as it lies in memory."""
    high = tl.load(start + at, mask=inside, other=0.0)
    if PRODUCTS == "bf16x6":
        middle = tl.load(start + plane + at, mask=inside, other=0.0)
        low = tl.load(start + 2 * plane + at, mask=inside, other=0.0)
        return high, middle, low
    else:
        return high, high, high


@triton.jit
def write_slope(
    z, slopes, b2, targets, model, rows, batch, target_model, target_row, target_class,
    C: constexpr, CP: constexpr, LOSS: constexpr, SLOPE: constexpr, BIAS: constexpr,
    PRODUCTS: constexpr,
):  # fmt: skip
    """Slope of the mean loss at the logits z (ROWS, CP); zeros for classes that are padding.

    LOSS is 0 for the cross-entropy, else the factor of outputs - targets. Outputs are logits with
    SLOPE at negative values; 1 for no activation.
    """
    classes = tl.arange(0, CP)
    own = targets + model * target_model
    wanted = read(own, rows, target_row, batch, classes, target_class, C)
    if BIAS:
        z += tl.load(b2 + model * C + classes, mask=classes < C, other=0.0)[None, :]
    outputs = z
    if SLOPE != 1:
        outputs = tl.where(z <= 0, SLOPE * z, z)
    if LOSS == 0:
        outputs = tl.where(classes[None, :] < C, outputs, float("-inf"))
        outputs = tl.exp(outputs - tl.max(outputs, 1)[:, None])
        slope = outputs / tl.sum(outputs, 1)[:, None] - wanted
    else:
        slope = (outputs - wanted) * LOSS
    if SLOPE != 1:
        slope = tl.where(z > 0, slope, SLOPE * slope)
    slope = tl.where(classes[None, :] < C, slope / batch, 0.0)
    at = (model * batch + rows[:, None]) * CP + classes[None, :]
    plane = tl.num_programs(0).to(tl.int64) * batch * CP
    write_split(slopes, split(slope, PRODUCTS), at, rows[:, None] < batch, plane, PRODUCTS)


@triton.jit
def forward_tile(
    model, row_tile, part,
    x, w1, b1, w2, b2, xs, out, targets, batch, width, units,
    x_model, target_model, target_row, target_class,
    FEATURES: constexpr, FX: constexpr, FA: constexpr, FB: constexpr, C: constexpr, CP: constexpr,
    LOSS: constexpr, SLOPE: constexpr, BIAS: constexpr, ROWS: constexpr, UNITS: constexpr,
    PRODUCTS: constexpr, JOINED: constexpr, WHOLE: constexpr, FJ: constexpr,
):  # fmt: skip
    """A program of :func:`forward`."""
    rows = row_tile * ROWS + tl.arange(0, ROWS)
    classes = tl.arange(0, CP)
    fa = tl.arange(0, FA)
    x += model * x_model
    w1 += model * FEATURES * width
    w2 += model * C * width
    xa = split(read(x, rows, FEATURES, batch, fa, 1, FEATURES), PRODUCTS)
    if FB > 0:
        fb = FA + tl.arange(0, FB)
        xb = split(read(x, rows, FEATURES, batch, fb, 1, FEATURES), PRODUCTS)
    if FJ > 0:  # six products of FEATURES - FA terms are one of FJ terms
        term = tl.arange(0, FJ)
        place = term // (FEATURES - FA)
        fj = tl.where(place < 6, FA + term % (FEATURES - FA), FEATURES)
        of_x = tl.where(place == 0, 2, tl.where((place == 2) | (place == 3), 1, 0))
        of_w = tl.where(place == 1, 2, tl.where((place == 2) | (place == 4), 1, 0))
        xj = pick(read(x, rows, FEATURES, batch, fj, 1, FEATURES), of_x[None, :])
    if part == 0:
        at = (model * batch + rows[:, None]) * FX
        plane = tl.num_programs(0).to(tl.int64) * batch * FX
        write_split(xs, xa, at + fa[None, :], rows[:, None] < batch, plane, PRODUCTS)
        if FB > 0:
            write_split(xs, xb, at + fb[None, :], rows[:, None] < batch, plane, PRODUCTS)
    z = tl.zeros((ROWS, CP), dtype=tl.float32)
    for first in range(0, units, UNITS):
        own = part * units + first + tl.arange(0, UNITS)
        wa = split(read(w1, fa, width, FEATURES, own, 1, width), PRODUCTS)
        h = product(xa, wa, PRODUCTS)
        if FJ > 0:
            wj = pick(read(w1, fj, width, FEATURES, own, 1, width), of_w[:, None])
            h = dot(xj, wj, h)
        elif FB > 0:
            wb = split(read(w1, fb, width, FEATURES, own, 1, width), PRODUCTS)
            h += product(xb, wb, PRODUCTS)
        if BIAS:
            h += tl.load(b1 + model * width + own, mask=own < width, other=0.0)[None, :]
        w = split(read(w2, own, 1, width, classes, width, C), PRODUCTS)
        z += product(split(relu(h), PRODUCTS), w, PRODUCTS, JOINED)
    if WHOLE:
        write_slope(
            z, out, b2, targets, model, rows, batch, target_model, target_row, target_class,
            C, CP, LOSS, SLOPE, BIAS, PRODUCTS,
        )  # fmt: skip
    else:
        at = (part.to(tl.int64) * tl.num_programs(0) + model) * batch
        at = (at + rows[:, None]) * CP + classes[None, :]
        tl.store(out + at, z, mask=rows[:, None] < batch)


@triton.jit(do_not_specialize=PLAIN)
def forward(
    x, w1, b1, w2, b2, xs, out, targets, batch, width, units,
    x_model, target_model, target_row, target_class,
    FEATURES: constexpr, FX: constexpr, FA: constexpr, FB: constexpr, C: constexpr, CP: constexpr,
    LOSS: constexpr, SLOPE: constexpr, BIAS: constexpr, ROWS: constexpr, UNITS: constexpr,
    PRODUCTS: constexpr, JOINED: constexpr, WHOLE: constexpr, FJ: constexpr,
):  # fmt: skip
    """Programs (model, tile of samples, ``units`` hidden units).

    If these are all there are (WHOLE), ``out`` are the slopes; else they are parts of the logits,
    (parts, models, batch, CP), to be summed by :func:`add_parts`.
    """
    model = tl.program_id(0).to(tl.int64)
    forward_tile(
        model, tl.program_id(1), tl.program_id(2), x, w1, b1, w2, b2, xs, out, targets, batch,
        width, units, x_model, target_model, target_row, target_class,
        FEATURES, FX, FA, FB, C, CP, LOSS, SLOPE, BIAS, ROWS, UNITS, PRODUCTS, JOINED, WHOLE, FJ,
    )  # fmt: skip


@triton.jit(do_not_specialize=[*PLAIN, "num_parts"])
def add_parts(
    parts, slopes, b2, targets, batch, num_parts, target_model, target_row, target_class,
    C: constexpr, CP: constexpr, LOSS: constexpr, SLOPE: constexpr, BIAS: constexpr,
    PRODUCTS: constexpr, ROWS: constexpr, PARTS: constexpr,
):  # fmt: skip
    """Programs (model, tile of samples): slopes of the sum of at most PARTS parts of the logits."""
    model = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    part = tl.arange(0, PARTS)[:, None, None]
    at = (part * tl.num_programs(0) + model) * batch + rows[None, :, None]
    at = at * CP + tl.arange(0, CP)[None, None, :]
    inside = (part < num_parts) & (rows[None, :, None] < batch)
    z = tl.sum(tl.load(parts + at, mask=inside, other=0.0), 0)
    write_slope(
        z, slopes, b2, targets, model, rows, batch, target_model, target_row, target_class,
        C, CP, LOSS, SLOPE, BIAS, PRODUCTS,
    )  # fmt: skip


@triton.jit
def move(p, v, at, inside, g, rate, MOMENTUM: constexpr, DECAY: constexpr):
    """v <- MOMENTUM v + g + DECAY p;  p <- p - rate v. Without momentum v is not touched."""
    old = tl.load(p + at, mask=inside, other=0.0)
    if MOMENTUM != 0:
        g += MOMENTUM * tl.load(v + at, mask=inside, other=0.0)
    if DECAY != 0:
        g += DECAY * old
    if MOMENTUM != 0:
        tl.store(v + at, g, mask=inside)
    tl.store(p + at, old - rate * g, mask=inside)


@triton.jit
def put(g, at, inside, buffer, p, rate, KEEP: constexpr, MOMENTUM: constexpr, DECAY: constexpr):
    """Keep a gradient in its buffer, or make the step at once; its sum of squares."""
    if KEEP:
        tl.store(buffer + at, g, mask=inside)
    else:
        move(p, buffer, at, inside, g, rate, MOMENTUM, DECAY)
    return tl.sum(tl.where(inside, g * g, 0.0))


@triton.jit
def backward_tile(
    model, tile, num_tiles, part,
    xs, w1, b1, w2, b2, slopes, g1, gb1, g2, gb2, squares, rates, batch, span, width,
    FEATURES: constexpr, FX: constexpr, FA: constexpr, FB: constexpr, C: constexpr, CP: constexpr,
    BIAS: constexpr, ROWS: constexpr, UNITS: constexpr, PRODUCTS: constexpr,
    KEEP: constexpr, MOMENTUM: constexpr, DECAY: constexpr,
):  # fmt: skip
    """A program of :func:`backward`."""
    own = tile * UNITS + tl.arange(0, UNITS)
    classes = tl.arange(0, CP)
    fa = tl.arange(0, FA)
    at1 = model * FEATURES * width
    at2 = model * C * width
    wa = split(read(w1 + at1, own, 1, width, fa, width, FEATURES), PRODUCTS)
    w2_own = split(read(w2 + at2, own, 1, width, classes, width, C), PRODUCTS)
    ga = tl.zeros((UNITS, FA), dtype=tl.float32)
    if FB > 0:
        fb = FA + tl.arange(0, FB)
        wb = split(read(w1 + at1, own, 1, width, fb, width, FEATURES), PRODUCTS)
        gb = tl.zeros((UNITS, FB), dtype=tl.float32)
    gc = tl.zeros((UNITS, CP), dtype=tl.float32)
    if BIAS:
        bias = tl.load(b1 + model * width + own, mask=own < width, other=0.0)
        g_bias = tl.zeros((UNITS,), dtype=tl.float32)
        g_out = tl.zeros((CP,), dtype=tl.float32)
    x_plane = tl.num_programs(0).to(tl.int64) * batch * FX
    d_plane = tl.num_programs(0).to(tl.int64) * batch * CP
    for first in range(part * span, min(batch, (part + 1) * span), ROWS):
        rows = first + tl.arange(0, ROWS)
        at = (model * batch + rows[:, None]) * FX
        inside = rows[:, None] < batch
        xa = read_split(xs, at + fa[None, :], inside, x_plane, PRODUCTS)
        h = product(wa, trans(xa), PRODUCTS)
        if FB > 0:
            xb = read_split(xs, at + fb[None, :], inside, x_plane, PRODUCTS)
            h += product(wb, trans(xb), PRODUCTS)
        if BIAS:
            h += bias[:, None]
        h = relu(h)
        at = (model * batch + rows[:, None]) * CP + classes[None, :]
        ds = read_split(slopes, at, inside, d_plane, PRODUCTS)
        gc += product(split(h, PRODUCTS), ds, PRODUCTS)
        dh = product(w2_own, trans(ds), PRODUCTS)
        dh = tl.where(h <= 0, 0.0, dh)
        dhs = split(dh, PRODUCTS)
        ga += product(dhs, xa, PRODUCTS)
        if FB > 0:
            gb += product(dhs, xb, PRODUCTS)
        if BIAS:
            g_bias += tl.sum(dh, 1)
            d = ds[0].to(tl.float32)
            if PRODUCTS == "bf16x6":
                d += ds[1].to(tl.float32) + ds[2].to(tl.float32)
            g_out += tl.sum(d, 0)
    rate = tl.load(rates + model)
    others = (part * tl.num_programs(0)).to(tl.int64)  # models of the spans before this one
    g1 += others * FEATURES * width
    gb1 += others * width
    g2 += others * C * width
    gb2 += others * C
    inside = own[:, None] < width
    at = at1 + fa[None, :] * width + own[:, None]
    square = put(ga, at, inside & (fa[None, :] < FEATURES), g1, w1, rate, KEEP, MOMENTUM, DECAY)
    if FB > 0:
        at = at1 + fb[None, :] * width + own[:, None]
        inside_b = inside & (fb[None, :] < FEATURES)
        square += put(gb, at, inside_b, g1, w1, rate, KEEP, MOMENTUM, DECAY)
    at = at2 + classes[None, :] * width + own[:, None]
    square += put(gc, at, inside & (classes[None, :] < C), g2, w2, rate, KEEP, MOMENTUM, DECAY)
    if BIAS:
        at = model * width + own
        square += put(g_bias, at, own < width, gb1, b1, rate, KEEP, MOMENTUM, DECAY)
        last = classes < tl.where(tile == 0, C, 0)
        square += put(g_out, model * C + classes, last, gb2, b2, rate, KEEP, MOMENTUM, DECAY)
    if KEEP:
        tl.store(squares + model * num_tiles + tile, square)  # of use if span >= batch


@triton.jit(do_not_specialize=[*PLAIN, "span"])
def backward(
    xs, w1, b1, w2, b2, slopes, g1, gb1, g2, gb2, squares, rates, batch, span, width,
    FEATURES: constexpr, FX: constexpr, FA: constexpr, FB: constexpr, C: constexpr, CP: constexpr,
    BIAS: constexpr, ROWS: constexpr, UNITS: constexpr, PRODUCTS: constexpr,
    KEEP: constexpr, MOMENTUM: constexpr, DECAY: constexpr,
):  # fmt: skip
    """Programs (model, tile of hidden units, ``span`` samples): gradients of these units' weights.

    They are kept (KEEP) by span, (spans, models, ...), or the step is made at once. Hidden units
    are the rows of every product: (UNITS, ROWS) of activations, (UNITS, features) and (UNITS,
    classes) of gradients. A program reads no weights but those that it changes.
    """
    model = tl.program_id(0).to(tl.int64)
    backward_tile(
        model, tl.program_id(1), tl.num_programs(1), tl.program_id(2),
        xs, w1, b1, w2, b2, slopes, g1, gb1, g2, gb2, squares, rates, batch, span, width,
        FEATURES, FX, FA, FB, C, CP, BIAS, ROWS, UNITS, PRODUCTS, KEEP, MOMENTUM, DECAY,
    )  # fmt: skip


@triton.jit(do_not_specialize=[*PLAIN, "units", "num_tiles"])
def both_passes(
    x, w1, b1, w2, b2, xs, slopes, targets, g1, gb1, g2, gb2, squares, rates, batch, width, units,
    num_tiles, x_model, target_model, target_row, target_class,
    FEATURES: constexpr, FX: constexpr, FA: constexpr, FB: constexpr, C: constexpr, CP: constexpr,
    LOSS: constexpr, SLOPE: constexpr, BIAS: constexpr, SPAN: constexpr, ROWS: constexpr,
    UNITS: constexpr, PRODUCTS: constexpr, JOINED: constexpr,
):  # fmt: skip
    """Programs (model, SPAN samples): gradients by span, as by both kernels; of few hidden units.

    A span's slopes are written and read by its own program alone.
    """
    model = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    forward_tile(
        model, part, 0, x, w1, b1, w2, b2, xs, slopes, targets, batch, width, units,
        x_model, target_model, target_row, target_class,
        FEATURES, FX, FA, FB, C, CP, LOSS, SLOPE, BIAS, SPAN, UNITS, PRODUCTS, JOINED, True, 0,
    )  # fmt: skip
    tl.debug_barrier()  # what a thread has written, the others read
    for tile in range(num_tiles):
        backward_tile(
            model, tile, num_tiles, part, xs, w1, b1, w2, b2, slopes, g1, gb1, g2, gb2, squares,
            rates, batch, SPAN, width, FEATURES, FX, FA, FB, C, CP, BIAS, ROWS, UNITS,
            PRODUCTS, True, 0.0, 0.0,
        )  # fmt: skip


@triton.jit
def cells(model, outer, NUM: constexpr, own, width):
    """Where weights (models, NUM, width) of ``outer`` and own hidden units are, and which are."""
    at = (model * NUM + outer[:, None]) * width + own[None, :]
    return at, (outer[:, None] < NUM) & (own[None, :] < width)


@triton.jit
def clip_factor(square, largest):
    """What a gradient of this squared l2 norm is multiplied by; NaN stays NaN."""
    factor = largest / (tl.sqrt(square) + 1e-6)
    return tl.where(factor > 1.0, 1.0, factor)


@triton.jit
def sum_spans(g, at, inside, stride, SPANS: constexpr):
    total = tl.load(g + at, mask=inside, other=0.0)
    for i in tl.static_range(1, SPANS):
        total += tl.load(g + i * stride + at, mask=inside, other=0.0)
    return total


@triton.jit(do_not_specialize=PLAIN)
def add_spans(
    w1, b1, w2, b2, s1, sb1, s2, sb2, g1, gb1, g2, gb2, squares, rates, width,
    FEATURES: constexpr, FP: constexpr, C: constexpr, CP: constexpr, BIAS: constexpr,
    UNITS: constexpr, SPANS: constexpr, KEEP: constexpr, MOMENTUM: constexpr, DECAY: constexpr,
):  # fmt: skip
    """Programs (model, tile of hidden units): sums of the gradients that were taken by span."""
    model = tl.program_id(0).to(tl.int64)
    models = tl.num_programs(0).to(tl.int64)
    tile = tl.program_id(1)
    rate = tl.load(rates + model)
    own = tile * UNITS + tl.arange(0, UNITS)
    features = tl.arange(0, FP)
    classes = tl.arange(0, CP)
    at, inside = cells(model, features, FEATURES, own, width)
    g = sum_spans(s1, at, inside, models * FEATURES * width, SPANS)
    square = put(g, at, inside, g1, w1, rate, KEEP, MOMENTUM, DECAY)
    at, inside = cells(model, classes, C, own, width)
    g = sum_spans(s2, at, inside, models * C * width, SPANS)
    square += put(g, at, inside, g2, w2, rate, KEEP, MOMENTUM, DECAY)
    if BIAS:
        at = model * width + own
        g = sum_spans(sb1, at, own < width, models * width, SPANS)
        square += put(g, at, own < width, gb1, b1, rate, KEEP, MOMENTUM, DECAY)
        at = model * C + classes
        last = classes < tl.where(tile == 0, C, 0)
        g = sum_spans(sb2, at, last, models * C, SPANS)
        square += put(g, at, last, gb2, b2, rate, KEEP, MOMENTUM, DECAY)
    if KEEP:
        tl.store(squares + model * tl.num_programs(1) + tile, square)


@triton.jit(do_not_specialize=[*PLAIN, "num_tiles"])
def clipped_step(
    w1, b1, w2, b2, g1, gb1, g2, gb2, v1, vb1, v2, vb2, squares, rates, num_tiles, width, largest,
    FEATURES: constexpr, FP: constexpr, C: constexpr, CP: constexpr, BIAS: constexpr,
    UNITS: constexpr, TILES: constexpr, MOMENTUM: constexpr, DECAY: constexpr,
):  # fmt: skip
    """Programs (model, tile of hidden units): gradients scaled to an l2 norm, then the step."""
    model = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    total = tl.zeros((TILES,), dtype=tl.float32)
    for first in range(0, num_tiles, TILES):
        i = first + tl.arange(0, TILES)
        total += tl.load(squares + model * num_tiles + i, mask=i < num_tiles, other=0.0)
    factor = clip_factor(tl.sum(total, 0), largest)
    rate = tl.load(rates + model)
    own = tile * UNITS + tl.arange(0, UNITS)
    features = tl.arange(0, FP)
    classes = tl.arange(0, CP)
    at, inside = cells(model, features, FEATURES, own, width)
    g = factor * tl.load(g1 + at, mask=inside, other=0.0)
    move(w1, v1, at, inside, g, rate, MOMENTUM, DECAY)
    at, inside = cells(model, classes, C, own, width)
    g = factor * tl.load(g2 + at, mask=inside, other=0.0)
    move(w2, v2, at, inside, g, rate, MOMENTUM, DECAY)
    if BIAS:
        at = model * width + own
        g = factor * tl.load(gb1 + at, mask=own < width, other=0.0)
        move(b1, vb1, at, own < width, g, rate, MOMENTUM, DECAY)
        at = model * C + classes
        inside = classes < tl.where(tile == 0, C, 0)
        g = factor * tl.load(gb2 + at, mask=inside, other=0.0)
        move(b2, vb2, at, inside, g, rate, MOMENTUM, DECAY)


@triton.jit(do_not_specialize=PLAIN)
def clipped_spans(
    w1, b1, w2, b2, s1, sb1, s2, sb2, v1, vb1, v2, vb2, rates, width, largest,
    FEATURES: constexpr, FP: constexpr, C: constexpr, CP: constexpr, BIAS: constexpr,
    UNITS: constexpr, SPANS: constexpr, CLIP: constexpr, MOMENTUM: constexpr, DECAY: constexpr,
):  # fmt: skip
    """Programs (model): :func:`add_spans`, and :func:`clipped_step` (CLIP), of UNITS at most."""
    model = tl.program_id(0).to(tl.int64)
    models = tl.num_programs(0).to(tl.int64)
    own = tl.arange(0, UNITS)
    features = tl.arange(0, FP)
    classes = tl.arange(0, CP)
    at1, inside1 = cells(model, features, FEATURES, own, width)
    g1 = sum_spans(s1, at1, inside1, models * FEATURES * width, SPANS)
    at2, inside2 = cells(model, classes, C, own, width)
    g2 = sum_spans(s2, at2, inside2, models * C * width, SPANS)
    square = tl.sum(g1 * g1) + tl.sum(g2 * g2)
    if BIAS:
        at3 = model * width + own
        g3 = sum_spans(sb1, at3, own < width, models * width, SPANS)
        at4 = model * C + classes
        g4 = sum_spans(sb2, at4, classes < C, models * C, SPANS)
        square += tl.sum(g3 * g3) + tl.sum(g4 * g4)
    rate = tl.load(rates + model)
    factor = 1.0
    if CLIP:
        factor = clip_factor(square, largest)
    move(w1, v1, at1, inside1, factor * g1, rate, MOMENTUM, DECAY)
    move(w2, v2, at2, inside2, factor * g2, rate, MOMENTUM, DECAY)
    if BIAS:
        move(b1, vb1, at3, own < width, factor * g3, rate, MOMENTUM, DECAY)
        move(b2, vb2, at4, classes < C, factor * g4, rate, MOMENTUM, DECAY)
