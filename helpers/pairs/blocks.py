"""An epoch's pairs, cut into blocks: runs of targets in a seeded random order, each with all its contexts."""

import numba
import numpy as np


@numba.njit(cache=True)
def _fill(order, indptr, contexts, out_targets, out_contexts):
    place = 0
    for t in order:
        for p in range(indptr[t], indptr[t + 1]):
            out_targets[place], out_contexts[place] = t, contexts[p]
            place += 1


class PairBlocks:
    """The pairs of a CSR by target, block by block; what a block holds depends on (seed, epoch, block) alone, so a resumed run repeats it.

    indptr: int64 (N+1,), contexts: int32 (P,), possibly memory-mapped; block_pairs: about how many pairs a block holds (blocks are cut
    evenly, but a target is never split, so one may be larger or, after a larger one, empty).
    """

    def __init__(self, indptr: np.ndarray, contexts: np.ndarray, seed: int, block_pairs: int):
        self.indptr, self.contexts, self.seed, self.block_pairs = np.asarray(indptr), contexts, seed, block_pairs
        self.pairs = len(contexts)  # P, pairs an epoch
        self.blocks = max(1, round(self.pairs / block_pairs))  # blocks an epoch
        self._epoch, self._order, self._bounds = None, None, None

    def generator(self, epoch: int, block: int = 0, purpose: int = 0) -> np.random.Generator:
        """The random numbers of one block: a Philox stream whose counter starts at (purpose, epoch, block)."""
        return np.random.Generator(np.random.Philox(key=self.seed, counter=[0, block, epoch, purpose]))

    def targets(self, epoch: int, block: int) -> np.ndarray:
        """The different targets of one block, int32, in this epoch's order; each has all its contexts there."""
        self._arrange(epoch)
        return self._order[self._bounds[block] : self._bounds[block + 1]]

    def block(self, epoch: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """(targets int32 (B,), contexts int32 (B,)) of one block, grouped by target; every pair is in just one block of an epoch."""
        order = self.targets(epoch, block)
        size = int((self.indptr[order + 1] - self.indptr[order]).sum())
        targets, contexts = np.empty(size, np.int32), np.empty(size, np.int32)
        _fill(order, self.indptr, self.contexts, targets, contexts)
        return targets, contexts

    def _arrange(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        degree = np.diff(self.indptr)
        order = np.flatnonzero(degree).astype(np.int32)
        order = self.generator(epoch, purpose=1).permutation(order)
        done = np.cumsum(degree[order])
        starts = np.arange(self.blocks) * self.pairs // self.blocks
        self._epoch, self._order = epoch, order
        self._bounds = np.append(np.searchsorted(done, starts, side="right"), len(order))
