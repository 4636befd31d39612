"""Corpus -> pairs: hide the held-out citations, lay the others out as CSR by target in both directions, weigh the noise."""

import numba
import numpy as np

from helpers.artefacts import finished, map_array, new_folder, open_npy, read_json, read_manifest, refuse_another_run, write_manifest
from helpers.config import PAIRS_SETTINGS, Config
from helpers.corpus.build import NOTEBOOK as CORPUS_NOTEBOOK
from helpers.corpus.build import known_rows, open_corpus
from helpers.corpus.citations import row_ranges, sort_row
from helpers.errors import ArtefactError, ConfigError
from helpers.pairs import noise
from helpers.pairs.split import choose_heldout, set_apart
from helpers.progress import progress

NOTEBOOK = "notebook 02_build_pairs"
RANGE_PAIRS = 1 << 26  # pairs laid out in memory at a time: 256 MB


def build_pairs(config: Config) -> dict:
    """Write `out/pairs/` (contexts_indptr.npy, contexts.npy, heldout.npy, noise.npy, manifest.json); returns the manifest.

    Raises ArtefactError where the corpus is missing, ConfigError where the split leaves nothing to train on.
    """
    refuse_another_run(config, corpus=False)
    papers, indptr, cited, report = open_corpus(config, ["year"])
    made_of = {"config": config.part(PAIRS_SETTINGS), "corpus": report["sha256"]}
    if finished(config.folder("pairs"), made_of):
        print(f"{config.folder('pairs')} was made of the same corpus with the same settings: it stays as it is.", flush=True)
        return read_manifest(config.folder("pairs"), NOTEBOOK)
    N, indptr, generator = len(papers), np.asarray(indptr), np.random.default_rng(config.seed)
    eligible = np.ones(N, bool)
    if config.heldout_after is not None:
        eligible &= papers["year"].to_numpy() > config.heldout_after  # a missing year is NaN and never later
        if not (eligible & (np.diff(indptr) > 0)).any():
            nothing = f"heldout_after = {config.heldout_after} hides nothing"
            raise ConfigError(f"{nothing}: no paper with citations has a later year; take an earlier one.")
    if config.extends:  # only references of new papers: on others the old run may have trained
        eligible &= known_rows(config) < 0
    heldout, apart, reversed_citations = set_apart(indptr, cited, choose_heldout(indptr, config.heldout, generator, eligible))
    if apart.all():
        raise ConfigError(f"heldout = {config.heldout} leaves no citation to train on, of {len(cited):,}; take a smaller fraction.")
    pairs_indptr = np.concatenate([[0], np.cumsum(_pairs_of_each(indptr, cited, apart))])
    P = int(pairs_indptr[-1])
    with new_folder(config.folder("pairs")) as folder:
        np.save(folder / "contexts_indptr.npy", pairs_indptr)
        with open_npy(folder / "contexts.npy", np.int32, P) as file, progress(title="Pairs", unit=" pairs", total=P) as bar:
            for targets in row_ranges(pairs_indptr, RANGE_PAIRS):  # filled in memory, whatever the order their pairs come in
                contexts = np.empty(pairs_indptr[targets.stop] - pairs_indptr[targets.start], np.int32)
                _fill_range(pairs_indptr, indptr, cited, apart, targets.start, targets.stop, contexts)
                file.write(memoryview(contexts))
                bar.update(len(contexts))
        np.save(folder / "heldout.npy", generator.permutation(heldout))
        np.save(folder / "noise.npy", noise.alias_table(np.diff(pairs_indptr), config.noise_power))
        facts = {"papers": N, "pairs": P, "heldout": len(heldout), "reversed_citations_left_out": reversed_citations}
        write_manifest(folder, **facts, **made_of)
    return read_manifest(config.folder("pairs"), NOTEBOOK)


@numba.njit(cache=True, nogil=True)
def _pairs_of_each(indptr, cited, apart):
    counts = np.zeros(len(indptr) - 1, np.int64)
    for citing in range(len(indptr) - 1):
        for p in range(indptr[citing], indptr[citing + 1]):
            if not apart[p]:
                counts[citing] += 1
                counts[cited[p]] += 1
    return counts


@numba.njit(cache=True, nogil=True)
def _fill_range(pairs_indptr, indptr, cited, apart, first, last, contexts):
    """Contexts of the targets first..last, both directions of every citation that is not set apart, ascending for each target."""
    start = pairs_indptr[first]
    places = pairs_indptr[first:last] - start
    for citing in range(len(indptr) - 1):
        here = first <= citing < last
        for p in range(indptr[citing], indptr[citing + 1]):
            if not apart[p]:
                if here:
                    contexts[places[citing - first]] = cited[p]
                    places[citing - first] += 1
                if first <= cited[p] < last:
                    contexts[places[cited[p] - first]] = citing
                    places[cited[p] - first] += 1
    for target in range(first, last):
        sort_row(contexts[pairs_indptr[target] - start : pairs_indptr[target + 1] - start])


class Pairs:
    """The finished pairs, opened: indptr int64 (N+1,) and contexts int32 (P,) memory-mapped, heldout int32 (n,2), noise ALIAS (N,)."""

    def __init__(self, config: Config):
        """Raises ArtefactError where `out/pairs/` is missing, damaged, or was made from another corpus than `out/corpus/`."""
        folder = config.folder("pairs")
        self.manifest = read_manifest(folder, NOTEBOOK)
        if self.manifest["corpus"] != read_json(config.folder("corpus") / "report.json", CORPUS_NOTEBOOK)["sha256"]:
            raise ArtefactError(f"{folder} was made from another corpus than the one in {config.folder('corpus')}; run {NOTEBOOK} again.")
        self.indptr = np.asarray(map_array(folder / "contexts_indptr.npy", NOTEBOOK))
        self.contexts = map_array(folder / "contexts.npy", NOTEBOOK)
        self.heldout = np.load(folder / "heldout.npy")
        self.noise = np.load(folder / "noise.npy")
        self.papers = self.manifest["papers"]  # N

    @property
    def fingerprint(self) -> dict:
        """The hashes of everything that training reads: two runs with the same fingerprint train on the same pairs."""
        return {name: facts["sha256"] for name, facts in self.manifest["files"].items()}
