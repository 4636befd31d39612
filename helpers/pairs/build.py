"""Corpus -> pairs: hide held-out citations, lay the others out as CSR by target in both directions, weigh the noise."""

from pathlib import Path

import numba
import numpy as np

from helpers.artefacts import finished, map_array, new_folder, open_npy, read_json, read_manifest, refuse_another_run, write_manifest
from helpers.config import PAIRS_SETTINGS, Config
from helpers.corpus.build import NOTEBOOK as CORPUS_NOTEBOOK
from helpers.corpus.build import known_rows, open_corpus
from helpers.corpus.citations import entries, row_ranges
from helpers.errors import ArtefactError, ConfigError
from helpers.pairs.blocks import joined
from helpers.pairs.noise import alias_table
from helpers.pairs.windows import write_window_pairs
from helpers.progress import progress

NOTEBOOK = "notebook 02_build_pairs"
RANGE_PAIRS, SORTED_PAIRS = 1 << 26, 1 << 19  # pairs laid out in memory at a time: 256 MB; sorted at a time


def choose_heldout(indptr: np.ndarray, fraction: float, generator: np.random.Generator, eligible: np.ndarray | bool = True) -> np.ndarray:
    """Places int64 (n,), ascending, of a fraction of the citations by `eligible` papers, bool (N,), True for all; indptr: int64 (N+1,)."""
    before = np.cumsum(np.diff(indptr) * eligible)
    of, size = int(before[-1]), round(fraction * int(before[-1]))
    few, drawn = size <= of // 4, np.empty(0, np.int64)
    while few and len(drawn) < size:  # so that memory follows what is hidden, not all that could be
        drawn = np.unique(np.concatenate([drawn, generator.integers(0, of, size - len(drawn) + 1000)]))
    drawn = np.sort(generator.permutation(drawn if few else of)[:size])
    paper = np.searchsorted(before, drawn, side="right")
    return np.asarray(indptr)[paper + 1] - (before[paper] - drawn)


def set_apart(indptr: np.ndarray, cited: np.ndarray, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """(hidden citations int32 (n, 2); which citations training may not see, bool (E,); how many of those only run against a hidden one)."""
    # Two papers may cite each other: then hiding one citation takes the other out of training too. cited: int32 (E,), ascending in a row
    apart = np.zeros(len(cited), bool)
    apart[hidden] = True
    heldout = np.stack([np.searchsorted(indptr, hidden, side="right") - 1, cited[hidden]], axis=1).astype(np.int32)
    against = np.sort(joined(*heldout.T[::-1]))
    for some in np.split(against, range(SORTED_PAIRS, len(against), SORTED_PAIRS)):
        papers = np.unique(some >> 32)
        row, places = entries(indptr, papers)
        apart[places[np.isin(papers[row] << 32 | cited[places], some, assume_unique=True)]] = True
    return heldout, apart, np.count_nonzero(apart) - len(hidden)


@numba.njit(cache=True, nogil=True)
def _place(indptr, cited, apart, first, places, contexts):
    # Move the place of each target from `first` on by its pairs, both directions of every citation that is not set apart, and write their
    # contexts there, unless `contexts` is empty
    for citing in range(len(indptr) - 1):
        for p in range(indptr[citing], indptr[citing + 1]):
            other = np.int64(cited[p])
            for target, context in ((citing, other), (other, citing)):
                if first <= target < first + len(places) and not apart[p]:
                    if len(contexts):
                        contexts[places[target - first]] = context
                    places[target - first] += 1


def build_pairs(config: Config) -> dict:
    """Write `out/pairs/`; returns the manifest. ArtefactError: the corpus is missing. ConfigError: nothing is left to train on."""
    refuse_another_run(config, config.folder("pairs") / "manifest.json", PAIRS_SETTINGS)
    corpus = read_json(config.folder("corpus") / "report.json", CORPUS_NOTEBOOK)["sha256"]
    is_text = "tokens.npy" in corpus
    made_of = {"config": config.part(PAIRS_SETTINGS + ("window", "subsample") * is_text), "corpus": corpus}
    if finished(config.folder("pairs"), made_of):
        print(f"{config.folder('pairs')} was made of the same corpus with the same settings: it stays as it is.", flush=True)
    else:
        write = write_window_pairs if is_text else _write_pairs
        with new_folder(config.folder("pairs")) as folder:
            write_manifest(folder, **write(config, folder, np.random.default_rng(config.seed)), **made_of)
    return read_manifest(config.folder("pairs"), NOTEBOOK)


def _write_pairs(config: Config, folder: Path, generator: np.random.Generator) -> dict:
    # of citations, as write_window_pairs of texts
    papers, indptr, cited, _ = open_corpus(config, ["year"])
    N, indptr = len(papers), np.asarray(indptr)
    eligible, counts = np.ones(N, bool), np.zeros(N, np.int64)
    if config.heldout_after is not None:
        eligible &= papers["year"].to_numpy() > config.heldout_after  # a missing year is NaN and never later
        if not (eligible & (np.diff(indptr) > 0)).any():
            raise ConfigError(f"heldout_after = {config.heldout_after} hides nothing: no citing paper is of a later year; take another.")
    if config.extends:  # only references of new papers: on others the old run may have trained
        eligible &= known_rows(config) < 0
    heldout, apart, reversed_citations = set_apart(indptr, cited, choose_heldout(indptr, config.heldout, generator, eligible))
    if apart.all():
        raise ConfigError(f"heldout = {config.heldout} leaves no citation to train on, of {len(cited):,}; take a smaller fraction.")
    _place(indptr, cited, apart, 0, counts, np.empty(0, np.int32))
    # first, while little else is in memory
    np.save(folder / "noise.npy", alias_table(counts, config.noise_power, config.noise_slots))
    pairs_indptr = np.append(0, np.cumsum(counts))
    P = int(pairs_indptr[-1])
    np.save(folder / "contexts_indptr.npy", pairs_indptr)
    with open_npy(folder / "contexts.npy", np.int32, P) as file, progress(title="Pairs", unit=" pairs", total=P) as bar:
        for targets in row_ranges(pairs_indptr, RANGE_PAIRS):  # filled in memory, whatever the order their pairs come in
            own = pairs_indptr[targets.start : targets.stop + 1] - pairs_indptr[targets.start]
            contexts = np.empty(own[-1], np.int32)
            _place(indptr, cited, apart, targets.start, own[:-1].copy(), contexts)
            for rows in row_ranges(own, SORTED_PAIRS):
                row, places = entries(own, np.arange(rows.start, rows.stop))
                file.write(np.sort(row << 32 | contexts[places]).astype(np.int32))  # the lower half
                bar.update(len(places))
    np.save(folder / "heldout.npy", generator.permutation(heldout))
    return {"papers": N, "pairs": P, "heldout": len(heldout), "reversed_citations_left_out": reversed_citations}


class Pairs:
    """The finished pairs, opened: indptr int64 (N+1,) and contexts int32 (P,) memory-mapped, heldout int32 (n,2), noise ALIAS (N,)."""

    def __init__(self, config: Config):
        # Raises ArtefactError where `out/pairs/` is missing, damaged, or was made from another corpus than `out/corpus/`
        folder = config.folder("pairs")
        self.manifest = read_manifest(folder, NOTEBOOK)
        if self.manifest["corpus"] != read_json(config.folder("corpus") / "report.json", CORPUS_NOTEBOOK)["sha256"]:
            raise ArtefactError(f"{folder} was made from another corpus than the one in {config.folder('corpus')}; run {NOTEBOOK} again.")
        self.indptr = np.asarray(map_array(folder / "contexts_indptr.npy", NOTEBOOK))
        self.contexts = map_array(folder / "contexts.npy", NOTEBOOK)
        self.heldout = np.load(folder / "heldout.npy")
        self.noise = np.load(folder / "noise.npy")
        self.papers = self.manifest["papers"]  # N
        # the hashes of everything that training reads: two runs with the same fingerprint train on the same pairs
        self.fingerprint = {name: facts["sha256"] for name, facts in self.manifest["files"].items()}
