"""Prefetch for numba kernels that walk through large tables in random order: the memory works ahead of the arithmetic."""

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

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
