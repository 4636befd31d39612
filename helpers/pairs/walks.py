"""Uniform random walks over the citation graph as a pair source (DeepWalk: Perozzi, Al-Rfou and Skiena 2014)."""

import numpy as np

from helpers.pairs.blocks import ORDER, PAIRS, PairSource, check_csr


class WalkPairs(PairSource):
    """Pairs of papers at most `window` steps apart, both ways round, in walks of `length` papers; an epoch has `walks` from each."""

    # A walk starts at each paper with contexts, in a seeded random order, and goes on to any context of where it is, each as likely:
    # held-out citations are not among them. indptr: int64 (N+1,), contexts: int32 (P,), pairs in both directions, so that every paper that
    # is reached has contexts; ArtefactError where they do not fit; block_pairs: about how many pairs a block holds (a walk is never split).

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
        walks, generator = [np.take(self._order, np.arange(first, last), mode="wrap")], self.generator(epoch, block, PAIRS)
        while len(walks) < self.length:  # all walks of the block go on by a step at once
            firsts = self.indptr[walks[-1]]
            counts = self.indptr[walks[-1] + 1] - firsts
            walks.append(np.take(self.contexts, firsts + (generator.random(len(counts)) * counts).astype(np.int64)))
        place = 0
        for later in range(1, self.length):
            for earlier in range(max(0, later - self.window), later):
                for one, other in ((earlier, later), (later, earlier)):
                    targets[place : place + last - first], contexts[place : place + last - first] = walks[one], walks[other]
                    place += last - first
        return place
