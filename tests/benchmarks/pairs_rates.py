"""Pairs on the fly: how many a CPU-second the sources write into the caller's buffers, an epoch's arrangement included."""

import time

import numpy as np

from helpers.pairs.blocks import PairBlocks, PairSource
from helpers.pairs.windows import WalkPairs
from tests.planted import planted

N, CITATIONS = 2_000_000, 10  # about 20 contexts a paper
BLOCK_PAIRS = 1 << 19
LENGTH, WINDOW = 20, 5
MOST_BLOCKS = 100  # of an epoch
ROUNDS = 3  # other work on the machine only slows


def pairs_per_cpu_s(source: PairSource) -> float:
    """Pairs a CPU-second of the first blocks of an epoch, with its whole arrangement; the best of ROUNDS."""
    targets, contexts = np.zeros((2, source.most_pairs), np.int32)  # every page is there before the clock starts
    source.block(0, 0, targets, contexts)  # compiled
    rates, blocks = [], min(source.blocks, MOST_BLOCKS)
    for epoch in range(1, ROUNDS + 1):
        start = time.process_time()
        written = sum(len(source.block(epoch, block, targets, contexts)[0]) for block in range(blocks))
        rates.append(written / (time.process_time() - start))
    return max(rates)


def run(quick: bool = False) -> dict[str, float]:
    """direct_pairs_per_cpu_s and walk_pairs_per_cpu_s on a planted graph of N papers; quick: a tenth of them."""
    pairs = planted(N // 10 if quick else N, heldout=0, validation=0, citations=CITATIONS)
    direct = PairBlocks(pairs.indptr, pairs.contexts, 0, BLOCK_PAIRS)
    walks = WalkPairs(pairs.indptr, pairs.contexts, 0, BLOCK_PAIRS, LENGTH, WINDOW, 1)
    print(f"{pairs.papers:,} papers, {direct.pairs:,} direct pairs, {walks.pairs:,} of walks of {LENGTH} papers, window {WINDOW}")
    return {"direct_pairs_per_cpu_s": pairs_per_cpu_s(direct), "walk_pairs_per_cpu_s": pairs_per_cpu_s(walks)}
