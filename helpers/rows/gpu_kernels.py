"""Triton kernels on rows: moving them between two memories, and one optimiser step on those of a batch. Import it where Triton is."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["count"])
def move(rows, ids, held, count, words, BACK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """held[i] = rows[ids[i]] for i < count or, BACK, rows[ids[i]] = held[i]; rows, held: `words` integers a row; ids: int64, different."""
    # A row's words go to neighbouring lanes: a warp asks the bus for whole lines of 128 bytes.
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (i < count)[:, None] & (column < words)[None, :]
    row = tl.load(ids + i, mask=i < count, other=0).to(tl.int64)  # 64-bit offsets: N x D may be beyond 2**31
    there = rows + row[:, None] * words + column[None, :]
    here = held + i[:, None] * words + column[None, :]
    if BACK:
        tl.store(there, tl.load(here, mask=inside), mask=inside)
    else:
        tl.store(here, tl.load(there, mask=inside), mask=inside)


@triton.jit(do_not_specialize=["seed"])
def update(rows, gradient, sums, rate, seed, D, ADAGRAD: tl.constexpr, BFLOAT16: tl.constexpr, COLUMNS: tl.constexpr):
    """One step of SGD or row-wise Adagrad on row `program_id(0)`, as in tables.py; bfloat16 rows, as int16, are rounded stochastically.

    rows: float32 or int16 (U, D); gradient: float32 (U, D); sums: float32 (U,), read and written by Adagrad alone."""
    u = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    inside = column < D
    g = tl.load(gradient + u * D + column, mask=inside, other=0)
    step = rate
    if ADAGRAD:
        total = tl.load(sums + u) + tl.sum(g * g) / D
        tl.store(sums + u, total)
        step = rate / tl.sqrt(total)
    value = tl.load(rows + u * D + column, mask=inside, other=0)
    if BFLOAT16:  # by its bits: GPUs before Ampere have no such type
        value = (value.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    value -= step * g
    if BFLOAT16:
        random = tl.randint(seed, (u * D + column).to(tl.int32)).to(tl.int32, bitcast=True) & 0xFFFF
        value = ((value.to(tl.int32, bitcast=True) + random) >> 16).to(tl.int16)
    tl.store(rows + u * D + column, value, mask=inside)
