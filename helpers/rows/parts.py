"""A table on a disk that is trained part by part: the rows of one part are in memory, with their state; the others wait in the file."""

import numpy as np

from helpers.pairs.blocks import part_rows
from helpers.prefetch import read_ahead


class HeldPart:
    """The part of a table that is in memory: stored (N, D), memory-mapped, and its sums float32 (N,), or (0,) where it has none."""

    def __init__(self, stored: np.ndarray, sums: np.ndarray, parts: int):
        self._stored, self._sums, self._parts, self.part = stored, sums, parts, None

    def hold(self, part: int) -> None:
        """Make another part's ids (n,), rows (n, D) and sums (n,) or (0,) those to train in place; those held go back to the file first."""
        self.flush()
        self.part, self.rows, self.ids = part, None, part_rows(len(self._stored), self._parts, part)
        read_ahead(self._stored, self.ids)
        self.rows = self._stored[self.ids]
        self.sums = self._sums[self.ids] if len(self._sums) else self._sums

    def flush(self) -> None:
        """Write the rows that are held to the file, where the whole table then is as it is now."""
        if self.part is not None:
            read_ahead(self._stored, self.ids)
            self._stored[self.ids] = self.rows
            if len(self._sums):
                self._sums[self.ids] = self.sums

    def __getitem__(self, ids: np.ndarray) -> np.ndarray:
        """The rows of `ids` (int64, any shape) as they are now, held or not."""
        rows = self._stored[ids]
        if self.part is not None:
            place = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
            held = self.ids[place] == ids
            rows[held] = self.rows[place[held]]
        return rows
