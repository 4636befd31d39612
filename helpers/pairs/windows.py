"""What is near in a sequence as pair sources: papers in random walks over the citations (DeepWalk), words in texts (word2vec)."""

from pathlib import Path

import numba
import numpy as np

from helpers.artefacts import map_array
from helpers.config import Config
from helpers.corpus.build import open_corpus
from helpers.errors import ConfigError
from helpers.pairs.blocks import ORDER, PAIRS, PairSource, check_csr, joined, split
from helpers.pairs.noise import alias_table

NOTEBOOK = "notebook 08_word_vectors"
RUN_WORDS = 1 << 9  # neighbouring texts, of about so many words, stay together in an epoch's order
STORED_PAIRS = 50_000_000  # about, in `pairs/` at most: what scores, the warm start and PIP loss look at


class WalkPairs(PairSource):
    """Pairs of papers at most `window` steps apart, both ways round, in walks of `length` papers; an epoch has `walks` from each."""

    # Perozzi, Al-Rfou and Skiena 2014.
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


@numba.njit(cache=True, nogil=True)
def _window_pairs(tokens, indptr, left_out, firsts, runs, keep, window, key, line, targets, contexts):
    # Write the pairs of some runs of texts, text by text, to the front of targets and contexts; returns how many. Each word stays with
    # chance keep[word] / 2**32; each that stayed draws its width from 1..window. line: int32, room for a text
    random, place = np.uint64(key), 0
    for run in runs:
        for text in range(firsts[run], firsts[run + 1]):
            size = 0
            for p in range(indptr[text], indptr[text + 1] if not left_out[text] else 0):
                random = random * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)  # as in models/kernels.py
                line[size] = tokens[p]
                size += (random >> np.uint64(32)) < keep[tokens[p]]
            for i in range(size):
                random = random * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
                width = 1 + np.int64(((random >> np.uint64(32)) * np.uint64(window)) >> np.uint64(32))
                for j in range(max(0, i - width), min(size, i + width + 1)):
                    targets[place], contexts[place] = line[i], line[j]
                    place += j != i
    return place


class WindowPairs(PairSource):
    """Pairs (word, word at most its width away) of texts; each epoch draws widths, and which frequent words are left out, anew."""

    # Mikolov et al. 2013.
    # tokens: int32, texts one after the other, which begin at indptr int64 (T+1,); left_out: bool (T,), texts that are not used; counts:
    # int (N,), of words. A word stays with word2vec's chance, (sqrt(f / subsample) + 1) subsample / f, f its share of all words.
    # block_pairs: about how many a block holds; `pairs` is an estimate by the first block.
    together = False  # each place of a text is trained for itself: that finds more than all of a word's pairs together

    def __init__(self, tokens, indptr, left_out, counts, seed: int, block_pairs: int, window: int, subsample: float):
        self.tokens, self.indptr, self.left_out, self.seed, self.window = *map(np.asarray, (tokens, indptr, left_out)), seed, window
        self.papers, self.counts, share = len(counts), counts, np.maximum(counts, 1) / max(counts.sum() * subsample, 1e-12)
        chance = np.minimum(1, (np.sqrt(share) + 1) / share) if subsample else np.ones(self.papers)
        self._keep = (chance * 2.0**32).astype(np.uint64)
        starts = np.searchsorted(self.indptr, np.arange(0, len(tokens), max(RUN_WORDS, len(tokens) >> 16)))
        self._firsts, lengths = np.unique(np.append(starts, len(indptr) - 1)), np.diff(self.indptr)  # of runs of texts; of texts
        self._line, sizes = np.empty(lengths.max() + 1, np.int32), np.add.reduceat(lengths * ~self.left_out, self._firsts[:-1])
        kept = sizes.sum() * np.average(chance, weights=counts)
        self.blocks = min(len(sizes), max(1, round(kept * (window + 1) / block_pairs)))
        runs_a_block = -(-len(sizes) // self.blocks)
        self.most_pairs = 2 * window * int(np.sort(sizes)[-runs_a_block:].sum()) + 1  # the last one is written, but never counts
        self.settings = {"pairs_from": "windows", "window": window, "subsample": subsample}
        first = len(self.block(0, 0)[0]) / max(int(sizes[self._order[: len(sizes) // self.blocks]].sum()), 1)  # pairs a word
        self.pairs = round(first * int(sizes.sum()))

    def _fill_block(self, epoch, block, targets, contexts):
        if min(len(targets), len(contexts)) < self.most_pairs:
            raise ValueError("the buffers do not match: each must hold most_pairs")
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.generator(epoch, purpose=ORDER).permutation(len(self._firsts) - 1)
        first, last = (place * len(self._order) // self.blocks for place in (block, block + 1))
        key = self.generator(epoch, block, PAIRS).integers(0, 2**64, dtype=np.uint64)
        texts = self.tokens, self.indptr, self.left_out, self._firsts, self._order[first:last]
        return _window_pairs(*texts, self._keep, self.window, key, self._line, targets, contexts)


def window_pairs(config: Config, left_out: np.ndarray | None = None) -> WindowPairs:
    """The window pairs of `out/corpus/` without some texts, bool (T,): by default those that `out/pairs/` holds out. ArtefactError."""
    if left_out is None:
        left_out = map_array(config.folder("pairs") / "left_out.npy", NOTEBOOK)
    text = (map_array(config.folder("corpus") / f"{name}.npy", NOTEBOOK) for name in ("tokens", "texts_indptr"))
    counts = open_corpus(config, ["degree"])[0]["degree"].to_numpy().astype(np.int64)
    return WindowPairs(*text, left_out, counts, config.seed, config.block_pairs, config.window, config.subsample)


def write_window_pairs(config: Config, folder: Path, generator: np.random.Generator) -> dict:
    """Write what `build_pairs` does into `folder`, of texts, a share of which is held out, and left_out.npy; facts of it. ConfigError."""
    left_out = generator.random(len(map_array(config.folder("corpus") / "texts_indptr.npy", NOTEBOOK)) - 1) < config.heldout
    source, held = (window_pairs(config, texts) for texts in (left_out, ~left_out))
    blocks = [range(min(of.blocks, STORED_PAIRS * of.blocks // max(of.pairs, 1) + 1)) for of in (source, held)]
    pairs, heldout = (np.concatenate([joined(*of.block(0, b)) for b in some]) for of, some in zip((source, held), blocks, strict=True))
    if not len(pairs):
        raise ConfigError(f"heldout {config.heldout} and subsample {config.subsample} leave no pair of words; take others, or more text.")
    pairs.sort()
    files = {"left_out": left_out, "contexts": split(pairs)[1], "heldout": np.stack(split(generator.permutation(heldout)), axis=1)}
    files["contexts_indptr"] = np.searchsorted(pairs, np.arange(source.papers + 1) << 32)
    files["noise"] = alias_table(source.counts, config.noise_power, config.noise_slots)
    for name, values in files.items():
        np.save(folder / f"{name}.npy", values)
    return {"papers": source.papers, "pairs": len(pairs), "heldout": len(heldout), "reversed_citations_left_out": 0}
