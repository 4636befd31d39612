"""An epoch's pairs, cut into blocks: what every pair source offers, and the first source, each citation in both directions."""

import numpy as np

from helpers.errors import ArtefactError

ORDER, LOSS, PAIRS, GROUPS, BUCKETS, SHUFFLE = range(1, 7)  # what random numbers are for: streams of their own (0: training)


def check_csr(indptr: np.ndarray, contexts: np.ndarray) -> None:
    """What kernels that read a CSR by target take for granted: they check no bounds. Raises ArtefactError in one sentence."""
    N = len(indptr) - 1
    if indptr[0] != 0 or indptr[-1] != len(contexts) or (np.diff(indptr) < 0).any():
        raise ArtefactError("pairs/contexts_indptr.npy does not fit pairs/contexts.npy; run notebook 02_build_pairs again.")
    for paper in (contexts.min(), contexts.max()) if len(contexts) else ():
        if not 0 <= paper < N:
            raise ArtefactError(f"pairs/contexts.npy names paper {paper:,}, but there are {N:,} papers; run notebook 02_build_pairs again.")


def joined(targets: np.ndarray, contexts: np.ndarray) -> np.ndarray:
    """Pairs packed as int64 (B,), the target in the upper half; targets, contexts: int32 (B,)."""
    return targets.astype(np.int64) << 32 | contexts


def split(pairs: np.ndarray) -> list[np.ndarray]:
    """[targets, contexts], int32 (B,) each, of pairs that `joined` packed."""
    return [(pairs >> 32).astype(np.int32), (pairs & 0xFFFFFFFF).astype(np.int32)]


class PairSource:
    """Pairs to train on, block by block; what a block holds depends on (seed, epoch, block) alone, so a resumed run repeats it."""

    # A source has papers (N), seed, pairs (of an epoch, at most), blocks (of an epoch), most_pairs (of a block), settings (what pairs these
    # are) and `_fill_block`, which is given buffers of most_pairs.
    files: dict[str, str] = {}  # noqa: RUF012  (sha256 by name of what it reads beside `out/pairs/`)
    together = True  # pairs of one target in a block, or in each run of them that comes; both are trained in random order
    _epoch: int | None = None  # whose order is kept

    def generator(self, epoch: int, block: int = 0, purpose: int = 0) -> np.random.Generator:
        """The random numbers of one block: a Philox stream whose counter starts at (purpose, epoch, block)."""
        return np.random.Generator(np.random.Philox(key=self.seed, counter=[0, block, epoch, purpose]))

    def block(self, epoch: int, block: int, *buffers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(targets int32 (B,), contexts int32 (B,)) of one block; in two buffers, if given, ValueError below most_pairs."""
        targets, contexts = buffers or np.empty((2, self.most_pairs), np.int32)
        filled = self._fill_block(epoch, block, targets, contexts)
        return targets[:filled], contexts[:filled]

    def by_target(self, epoch: int, block: int) -> tuple[np.ndarray | None, np.ndarray, np.ndarray, np.ndarray]:
        """One block to train on, target by target: (papers int32 (T,), order int32 (T,), indptr int64 (T+1,), contexts int32 (B,))."""
        # Target i, taken in the order given, is paper papers[i] (None: paper i) and has contexts[indptr[i] : indptr[i + 1]].
        targets, contexts = self.block(epoch, block)
        if self.together:
            targets, contexts = split(np.sort(joined(targets, contexts)))
        firsts = np.flatnonzero(np.diff(targets, prepend=-1))
        order = self.generator(epoch, block, GROUPS).permutation(len(firsts))
        return targets[firsts], order.astype(np.int32), np.append(firsts, len(targets)), contexts


class PairBlocks(PairSource):
    """The pairs of a CSR by target (indptr int64 (N+1,), contexts int32 (P,)), each target's at once, in a seeded order, once an epoch."""

    # It is runs of neighbouring targets that are in random order. block_pairs: about how many pairs a block holds: a target is never split,
    # so a block may be larger or, after a larger one, empty.
    settings = {"pairs_from": "citations"}  # noqa: RUF012

    def __init__(self, indptr: np.ndarray, contexts: np.ndarray, seed: int, block_pairs: int):
        self.indptr, self.contexts, self.seed = np.asarray(indptr), contexts, seed
        self.papers, self.pairs = len(indptr) - 1, len(contexts)
        self.blocks = max(1, round(self.pairs / block_pairs))
        self.most_pairs = -(-self.pairs // self.blocks) + int(np.diff(self.indptr).max(initial=0))  # an even share, and one target more

    def targets(self, epoch: int, block: int) -> np.ndarray:
        """The different targets of one block, int32, in this epoch's order; each has all its contexts there."""
        if epoch != self._epoch:
            degree = np.diff(self.indptr).astype(np.int32)
            trained = np.flatnonzero(degree).astype(np.int32)
            run = max(1, len(trained) >> 14)  # targets: a table on a disk is read and written in pieces, not row by row
            runs = self.generator(epoch, purpose=ORDER).permutation(-(-len(trained) // run)).astype(np.int32)
            order = (runs[:, None] * np.int32(run) + np.arange(run, dtype=np.int32)).ravel()
            self._epoch, self._order = epoch, trained[order[order < len(trained)]]
            done = np.cumsum(degree[self._order], dtype=np.int64)
            self._bounds = np.append(np.searchsorted(done, np.arange(self.blocks) * self.pairs // self.blocks, side="right"), len(done))
        return self._order[self._bounds[block] : self._bounds[block + 1]]

    def by_target(self, epoch: int, block: int) -> tuple[np.ndarray | None, np.ndarray, np.ndarray, np.ndarray]:
        """One block to train on: runs of this CSR itself."""
        return None, self.targets(epoch, block), self.indptr, self.contexts

    def _fill_block(self, epoch, block, targets, contexts):
        of_block = self.targets(epoch, block)
        firsts, counts = self.indptr[of_block], self.indptr[of_block + 1] - self.indptr[of_block]
        size = int(counts.sum())
        targets[:size] = np.repeat(of_block, counts)
        places = np.arange(size) + np.repeat(firsts - np.cumsum(counts) + counts, counts)
        np.take(self.contexts, places, out=contexts[:size], mode="clip")  # which "raise" would do by a copy
        return size
