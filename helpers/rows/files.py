"""Rows as they are kept: bfloat16 as the upper half of a float32, in memory or in files of at most SHARD_BYTES, without a second copy."""

import mmap
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from helpers.artefacts import new_array, open_npy, sentences_for_disk_errors, sha256
from helpers.config import Config
from helpers.errors import ArtefactError
from helpers.prefetch import only_what_is_asked, read_ahead

SHARD_BYTES = 1 << 28
PIECE = 1 << 16  # rows
ROW_TYPES = {"bfloat16": np.dtype(np.uint16), "float32": np.dtype(np.float32)}  # how numpy, which has no bfloat16, keeps rows of each type


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

    def __init__(self, convert: Callable, *tables: np.ndarray, ahead: bool | None = False):
        # ahead: rows that are asked for by an array of ids are read from the disk at once, not one by one
        self._convert, self._tables, self._ahead, self.shape = convert, tables, ahead, tables[0].shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows) -> np.ndarray:
        if self._ahead and isinstance(rows, np.ndarray):
            for table in self._tables:
                read_ahead(table, np.unique(rows))
        return self._convert(*(np.asarray(table[rows]) for table in self._tables))


Float32Rows = partial(ReadThrough, to_float32)  # stored rows (N, D) that read as float32: only what is indexed is converted


def pieces(N: int, most: int = PIECE) -> list[slice]:
    """N rows (or columns), cut into slices of at most so many: what is done to a table is done to these, without a second copy of it."""
    return [slice(first, min(first + most, N)) for first in range(0, N, most)]


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array on pages of its own, which can be locked at its exact size: torch's pinned memory takes the next power of two instead."""
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.empty(-(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE + mmap.PAGESIZE, np.uint8)
    begin = -room.ctypes.data % mmap.PAGESIZE
    return room[begin : begin + nbytes].view(dtype).reshape(shape)


def empty_table(config: Config, name: str, N: int) -> np.ndarray:
    """A new table (N, D) of config.row_type, in RAM or, with config.tables_on_disk, memory-mapped in `out/tables/`."""
    shape, dtype = (N, config.dimensions), ROW_TYPES[config.row_type]
    # every pair draws contexts from everywhere: they are on the disk only where the hottest are elsewhere
    if not config.tables_on_disk or (name == "context" and not config.contexts_on_disk):
        return aligned_empty(shape, dtype)
    with sentences_for_disk_errors(config.folder("tables")):
        config.folder("tables").mkdir(parents=True, exist_ok=True)
        return only_what_is_asked(new_array(config.folder("tables") / f"{name}.npy", dtype, shape))


def write_rows(folder: Path, name: str, stored: np.ndarray) -> None:
    """Write stored rows (N, D), or values (N,), as `NAME-00000.npy`, ...; their place is taken first: a full disk tells at once."""
    rows = max(1, SHARD_BYTES // max(1, stored[:1].nbytes))
    for i, first in enumerate(range(0, max(len(stored), 1), rows)):
        shard = read_ahead(stored[first : first + rows], slice(None))
        with open_npy(folder / f"{name}-{i:05d}.npy", shard.dtype, *shard.shape) as file:
            os.posix_fallocate(file.fileno(), 0, file.tell() + shard.nbytes)
            shard.tofile(file)


class RowFiles:
    """The shards of a table, memory-mapped, that read as one array (N, D) or (N,): `files[rows]` or `files[rows, columns]`, as a copy."""

    def __init__(self, folder: Path, name: str):
        """Raises ArtefactError where there are none, or they do not fit together."""
        self.paths = sorted(folder.glob(f"{name}-[0-9]*.npy"))
        try:
            self.parts = [only_what_is_asked(np.load(path, mmap_mode="r")) for path in self.paths]
            ((self.dtype, row),) = {(part.dtype, part.shape[1:]) for part in self.parts}  # the same in each, and there is one
        except (ValueError, OSError, EOFError) as error:
            raise ArtefactError(f"{folder} holds no whole table {name}.") from error
        self.starts = np.cumsum([0, *map(len, self.parts)])
        self.shape = int(self.starts[-1]), *row
        self._asked = np.zeros(len(self), bool)  # rows that were read from the disk: not asked for again

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> np.ndarray:
        rows, *columns = index if isinstance(index, tuple) else (index,)
        if isinstance(rows, slice) and rows.step in (None, 1):  # piece after piece
            first, last, _ = rows.indices(len(self))
            spans = [slice(max(first - start, 0), max(last - start, 0)) for start in self.starts[:-1].tolist()]
            return np.concatenate([read_ahead(part, span)[span, *columns] for part, span in zip(self.parts, spans, strict=True)])
        rows = np.arange(len(self))[rows]
        found = np.empty(rows.shape + self.shape[1:], self.dtype)
        for part, first in zip(self.parts, self.starts.tolist(), strict=False):
            here = (rows >= first) & (rows < first + len(part))
            new = np.unique(rows[here & ~self._asked[rows]])
            self._asked[new] = True
            found[here] = read_ahead(part, new - first)[rows[here] - first]
        return found[..., *columns]

    def read_into(self, stored: np.ndarray, hashes: dict[str, str]) -> None:
        """Fill `stored`, of this shape and dtype, shard by shard, each checked by its sha256; raises ArtefactError."""
        for path, part, start in zip(self.paths, self.parts, self.starts, strict=False):
            if sha256(path) != hashes[path.name]:
                raise ArtefactError(f"{path} is not as its manifest says.")
            stored[start : start + len(part)] = read_ahead(part, slice(None))
