"""Rows of bfloat16: the upper half of a float32, kept by numpy (which has no such type) as uint16, by torch as bfloat16."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

ROW_TYPES = {"bfloat16": np.dtype(np.uint16), "float32": np.dtype(np.float32)}  # how numpy keeps rows of each type


def to_float32(stored: np.ndarray) -> np.ndarray:
    """Stored rows (uint16 bits of bfloat16, or float32) as float32, exactly; any shape."""
    return stored if stored.dtype == np.float32 else (stored.astype(np.uint32) << 16).view(np.float32)


def rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float32 values as they are stored in `dtype`: themselves, or the nearest bfloat16 (ties to even) as uint16; any shape."""
    return values if dtype == np.float32 else as_stored(torch.from_numpy(values).bfloat16())


def round_stochastically(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """float32 values as bfloat16, each rounded up with the probability of its remainder, so that small steps are not lost; any shape."""
    random = torch.randint(0, 1 << 16, values.shape, dtype=torch.int32, device=values.device, generator=generator)
    return ((values.view(torch.int32) + random) & -65536).view(torch.float32).to(torch.bfloat16)


def as_stored(rows: torch.Tensor) -> np.ndarray:
    """A table of torch on the CPU as numpy keeps it, without a copy."""
    return rows.view(torch.int16).numpy().view(np.uint16) if rows.dtype == torch.bfloat16 else rows.numpy()


def as_tensor(stored: np.ndarray) -> torch.Tensor:
    """The other way round, without a copy: float32 or, of uint16, bfloat16."""
    return torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16) if stored.dtype == np.uint16 else torch.from_numpy(stored)


class ReadThrough:
    """Tables of N rows, perhaps memory-mapped, read as what `convert` makes of their rows: `table[rows]`, `len(table)`, `table.shape`."""

    dtype = np.dtype(np.float32)  # whatever they are stored as

    def __init__(self, convert: Callable, *tables: np.ndarray):
        self._convert, self._tables, self.shape = convert, tables, tables[0].shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows) -> np.ndarray:
        return self._convert(*(np.asarray(table[rows]) for table in self._tables))


Float32Rows = partial(ReadThrough, to_float32)  # stored rows (N, D) that read as float32: only what is indexed is converted
