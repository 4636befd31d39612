"""Rows on disk: a table in shards of at most SHARD_BYTES, written and read without a second copy of it in memory."""

import os
from pathlib import Path

import numpy as np

from helpers.artefacts import new_array, open_npy, sentences_for_disk_errors, sha256
from helpers.config import Config
from helpers.errors import ArtefactError
from helpers.prefetch import only_what_is_asked, read_ahead
from helpers.rows.bfloat16 import ROW_TYPES
from helpers.rows.transfer import aligned_empty

SHARD_BYTES = 1 << 28
PIECE = 1 << 16  # rows


def pieces(N: int, most: int = PIECE) -> list[slice]:
    """N rows (or columns), cut into slices of at most so many: what is done to a table is done to these, without a second copy of it."""
    return [slice(first, min(first + most, N)) for first in range(0, N, most)]


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
        shard = stored[first : first + rows]
        read_ahead(shard, slice(None))
        with open_npy(folder / f"{name}-{i:05d}.npy", shard.dtype, *shard.shape) as file:
            if shard.nbytes:
                os.posix_fallocate(file.fileno(), file.tell(), shard.nbytes)
                file.write(memoryview(shard).cast("B"))


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
            for part, span in zip(self.parts, spans, strict=True):
                read_ahead(part, span)
            return np.concatenate([part[span, *columns] for part, span in zip(self.parts, spans, strict=True)])
        rows = np.arange(len(self))[rows]
        found = np.empty(rows.shape + self.shape[1:], self.dtype)
        for part, first in zip(self.parts, self.starts.tolist(), strict=False):
            here = (rows >= first) & (rows < first + len(part))
            new = np.unique(rows[here & ~self._asked[rows]])
            self._asked[new] = True
            read_ahead(part, new - first)
            found[here] = part[rows[here] - first]
        return found[..., *columns]

    def read_into(self, stored: np.ndarray, hashes: dict[str, str]) -> None:
        """Fill `stored`, of this shape and dtype, shard by shard, each checked by its sha256; raises ArtefactError."""
        for path, part, start in zip(self.paths, self.parts, self.starts, strict=False):
            if sha256(path) != hashes[path.name]:
                raise ArtefactError(f"{path} is not as its manifest says.")
            read_ahead(part, slice(None))
            stored[start : start + len(part)] = part
