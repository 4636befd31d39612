"""Operations on whole rows as explicit vector instructions, for use in numba kernels."""

# A row is given by its address (int64) and stored as float32, or as bfloat16: the upper half of a float32, kept as uint16. `like` is any
# value of the stored type. Local rows (h, gradient) are float32 in the order of `_read`, which for bfloat16 is not that of the columns:
# a 32-bit word holds two neighbouring columns, and its lower halves, then its upper halves, are cheaper to take than columns in turn.
# Nothing is checked: a wrong address is a crash.

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

FLOAT, WORD, HALF = ir.FloatType(), ir.IntType(32), ir.IntType(16)
FAST = ("fast",)


@intrinsic
def dot_row(typing_context, h, row, like, D):
    """The dot product of a local row and a stored one."""

    def codegen(context, builder, signature, arguments):
        h, row, _, D = arguments
        sums = {lanes: cgutils.alloca_once_value(builder, _constant(ir.VectorType(FLOAT, lanes), 0.0)) for lanes in (16, 4, 1)}
        for j, width in _over_columns(builder, D):
            for part, value in _read(builder, row, j, width, like):
                place = sums[value.type.count]
                builder.store(_plus_product(builder, builder.load(place), value, _load(builder, h, part, value.type)), place)
        total = FLOAT(0.0)
        for lanes, place in sums.items():
            kind = ir.FunctionType(FLOAT, [FLOAT, ir.VectorType(FLOAT, lanes)])
            reduce = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.fadd.v{lanes}f32")
            total = builder.call(reduce, [total, builder.load(place)], fastmath=FAST)
        return total

    return types.float32(types.int64, types.int64, like, types.int64), codegen


@intrinsic
def train_row(typing_context, h, row, like, D, g, gradient, size, noise):
    """gradient += g * row, then row += size * h; h, gradient: local rows; noise, for bfloat16: D random uint32 below 2**16, or 32768."""

    def codegen(context, builder, signature, arguments):
        h, row, _, D, g, gradient, size, noise = arguments
        for j, width in _over_columns(builder, D):
            changed = []
            for part, value in _read(builder, row, j, width, like):
                so_far, step = _load(builder, gradient, part, value.type), _load(builder, h, part, value.type)
                _store(builder, _plus_product(builder, so_far, _splat(builder, g, value.type), value), gradient, part)
                changed.append((part, _plus_product(builder, value, _splat(builder, size, value.type), step)))
            _write(builder, changed, row, j, width, like, noise)
        return context.get_dummy_value()

    argument_types = (types.int64, types.int64, like, types.int64, types.float32, types.int64, types.float32, types.int64)
    return types.void(*argument_types), codegen


@intrinsic
def add_row(typing_context, row, like, D, out):
    """out += row, a stored row and a local one."""

    def codegen(context, builder, signature, arguments):
        row, _, D, out = arguments
        for j, width in _over_columns(builder, D):
            for part, value in _read(builder, row, j, width, like):
                _store(builder, builder.fadd(_load(builder, out, part, value.type), value, FAST), out, part)
        return context.get_dummy_value()

    return types.void(types.int64, like, types.int64, types.int64), codegen


def _over_columns(builder, D):
    # Emit loops over the columns: 32 at a time, then 8, then 1; yields (first column, width) while the body is emitted
    start = D.type(0)
    for width in (32, 8, 1):
        stop = builder.sub(D, builder.srem(D, D.type(width)))
        with cgutils.for_range_slice(builder, start, stop, D.type(width)) as (j, _):
            yield j, width
        start = stop


def _read(builder, base, j, width, stored):
    # `width` columns from j on as float32: a list of (where in a local row, vector), two of half the width, or one of one column
    lanes = max(1, width // 2)
    vector, words = ir.VectorType(FLOAT, lanes), ir.VectorType(WORD, lanes)
    parts = [j, builder.add(j, j.type(lanes))][: width // lanes]
    if stored == types.float32:
        return [(part, _load(builder, base, part, vector)) for part in parts]
    if width == 1:
        bits = builder.zext(_load(builder, base, j, ir.VectorType(HALF, 1), 2), words)
        return [(j, builder.bitcast(builder.shl(bits, _constant(words, 16)), vector))]
    pairs = _load(builder, base, j, words, 2)
    lower, upper = builder.shl(pairs, _constant(words, 16)), builder.and_(pairs, _constant(words, 0xFFFF0000))
    return [(part, builder.bitcast(bits, vector)) for part, bits in zip(parts, (lower, upper), strict=True)]


def _write(builder, values, base, j, width, stored, noise):
    # Store what `_read` gave, changed; bfloat16 is rounded up with its remainder's probability: 16 random bits added, then cut
    if stored == types.float32:
        for part, value in values:
            _store(builder, value, base, part)
        return
    words = ir.VectorType(WORD, values[0][1].type.count)
    rounded = [builder.add(builder.bitcast(value, words), _load(builder, noise, part, words)) for part, value in values]
    lower = builder.lshr(rounded[0], _constant(words, 16))
    upper = None if width == 1 else builder.and_(rounded[1], _constant(words, 0xFFFF0000))
    _store(builder, builder.or_(lower, upper) if upper else builder.trunc(lower, ir.VectorType(HALF, 1)), base, j, 2)


def _plus_product(builder, a, b, c):
    # a + b * c, fused where the processor can
    return builder.fadd(a, builder.fmul(b, c, FAST), FAST)


def _constant(vector, value):
    return ir.Constant(vector, [value] * vector.count)


def _splat(builder, value, vector):
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, WORD(0))
    return builder.shuffle_vector(first, first, _constant(ir.VectorType(WORD, vector.count), 0))


def _pointer(builder, base, j, vector, size):
    return builder.inttoptr(builder.add(base, builder.mul(j, j.type(size))), vector.as_pointer())


def _load(builder, base, j, vector, size=4):
    return builder.load(_pointer(builder, base, j, vector, size), align=size)


def _store(builder, value, base, j, size=4):
    builder.store(value, _pointer(builder, base, j, value.type, size), align=size)
