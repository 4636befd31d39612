"""Prefetch for what walks through large tables in random order: memory works ahead of numba kernels, the disk ahead of its readers."""

import ctypes
import mmap

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

MADVISE = ctypes.CDLL(None).madvise
MADVISE.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
BYTE, WORD = ir.IntType(8), ir.IntType(32)


@intrinsic
def prefetch(typing_context, address):
    """llvm.prefetch of the cache line at an address, into the second cache: the first has too few places for rows in flight."""

    def codegen(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], BYTE.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, WORD, WORD, WORD])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0"), [pointer, WORD(0), WORD(2), WORD(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@numba.njit(inline="always")
def prefetch_row(base, row, row_bytes):
    """Prefetch all cache lines of a row of a table that begins at the address `base`."""
    start = base + np.int64(row) * row_bytes
    for offset in range(0, row_bytes, 64):
        prefetch(start + offset)


def only_what_is_asked(table: np.ndarray) -> np.ndarray:
    """The memory-mapped table, from now on read page by page, but where `read_ahead` asks for more."""
    # the system would read 128 KB around each row, and forget others for it
    begin = table.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
    MADVISE(begin, table.ctypes.data + table.nbytes - begin, mmap.MADV_RANDOM)
    return table


def read_ahead(table: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
    """The memory-mapped table, whose rows (ascending ids, or a slice) begin to be read from the disk, all at once; nothing of others."""
    # Rows that are asked for one by one as they are used cost a wait each: a thousand a second here, against 100,000 this way.
    base, stride = table.ctypes.data, table.strides[0]
    if isinstance(rows, slice):
        rows, gaps = np.array(rows.indices(len(table))[:2]) - [0, 1], np.empty(0, np.int64)
    else:
        gaps = np.flatnonzero(np.diff(rows) > 1 + mmap.PAGESIZE // stride)
    firsts, lasts = rows[[0, *(gaps + 1)][: len(rows)]], rows[[*gaps, -1][: len(rows)]] + 1
    for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
        begin = (base + first * stride) // mmap.PAGESIZE * mmap.PAGESIZE
        MADVISE(begin, base + last * stride - begin, mmap.MADV_WILLNEED)
    return table
