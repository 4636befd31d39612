"""Uniform random walks over the citation graph as a pair source (DeepWalk: Perozzi, Al-Rfou and Skiena 2014)."""

import numba
import numpy as np

from helpers.pairs.blocks import ORDER, PAIRS, PairSource, check_csr

TOGETHER = 64  # walks taken step by step at once: their cache misses overlap


@numba.njit(inline="always")
def draw_below(bound, key, place):
    """A random whole number below `bound` (at most 2**32), for a place in the sequence of `key`: splitmix64 (Steele et al. 2014)."""
    z = np.uint64(key) + np.uint64(place) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    lower = ((z & np.uint64(0xFFFFFFFF)) * np.uint64(bound)) >> np.uint64(32)  # z * bound / 2**64, in two halves
    return np.int64(((z >> np.uint64(32)) * np.uint64(bound) + lower) >> np.uint64(32))


@numba.njit(nogil=True, cache=True)
def _walk(starts, indptr, contexts, length, window, key, out_targets, out_contexts):
    # Walk from each of `starts` int32 and write the pairs; returns how many. The buffers hold those of whole walks
    walks, lengths = np.empty((length, TOGETHER), np.int32), np.empty(TOGETHER, np.int64)
    firsts, counts = np.empty(TOGETHER, np.int64), np.empty(TOGETHER, np.int64)
    place, draws = 0, np.uint64(0)
    for group in range(0, len(starts), TOGETHER):
        size = min(TOGETHER, len(starts) - group)
        walks[0, :size], lengths[:size] = starts[group : group + size], length
        for step in range(1, length):
            for i in range(size):
                t = walks[step - 1, i]
                firsts[i], counts[i] = indptr[t], indptr[t + 1] - indptr[t]
            for i in range(size):
                draws += np.uint64(1)
                if counts[i]:
                    walks[step, i] = contexts[firsts[i] + draw_below(counts[i], key, draws)]
                else:  # the walk ends early; in pairs of both directions no paper is without contexts
                    walks[step, i], lengths[i] = walks[step - 1, i], min(lengths[i], step)
        for later in range(1, length):
            for earlier in range(max(0, later - window), later):
                for i in range(size):
                    if later < lengths[i]:
                        out_targets[place], out_contexts[place] = walks[earlier, i], walks[later, i]
                        out_targets[place + 1], out_contexts[place + 1] = walks[later, i], walks[earlier, i]
                        place += 2
    return place


class WalkPairs(PairSource):
    """Pairs of papers at most `window` steps apart, both ways round, in walks of `length` papers; an epoch has `walks` from each."""

    # A walk starts at each paper with contexts, in a seeded random order, and goes on to any context of where it is, each as likely:
    # held-out citations are not among them. indptr: int64 (N+1,), contexts: int32 (P,), ArtefactError where they do not fit; block_pairs:
    # about how many pairs a block holds (a walk is never split).

    def __init__(self, indptr: np.ndarray, contexts: np.ndarray, seed: int, block_pairs: int, length: int, window: int, walks: int):
        check_csr(indptr, contexts)
        self.indptr, self.contexts, self.seed, self.length, self.window = np.asarray(indptr), contexts, seed, length, window
        self.papers, starts = len(indptr) - 1, int(np.count_nonzero(np.diff(indptr)))
        self.walk_pairs, self.walks = sum(2 * min(window, later) for later in range(1, length)), walks * starts
        self.pairs = self.walks * self.walk_pairs
        self.blocks = max(1, round(self.pairs / block_pairs))
        self.most_pairs = -(-self.walks // self.blocks) * self.walk_pairs
        self.settings = {"pairs_from": "walks", "walk_length": length, "window": window, "walks_per_paper": walks}

    def _fill_block(self, epoch, block, targets, contexts):
        if epoch != self._epoch:
            starts = np.flatnonzero(np.diff(self.indptr)).astype(np.int32)
            self._epoch, self._order = epoch, self.generator(epoch, purpose=ORDER).permutation(starts)
        first, last = (place * self.walks // self.blocks for place in (block, block + 1))
        starts, key = np.take(self._order, np.arange(first, last), mode="wrap"), self.key(epoch, block, PAIRS)
        return _walk(starts, self.indptr, self.contexts, self.length, self.window, key, targets, contexts)
