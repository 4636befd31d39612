"""Corpus -> pairs: hide the held-out citations, lay the others out as CSR by target in both directions, weigh the noise."""

import numpy as np

from helpers.artefacts import map_array, new_folder, read_json, read_manifest, refuse_another_run, write_manifest
from helpers.config import PAIRS_SETTINGS, Config
from helpers.corpus.build import NOTEBOOK as CORPUS_NOTEBOOK
from helpers.corpus.build import open_corpus
from helpers.corpus.csr import csr
from helpers.errors import ArtefactError, ConfigError
from helpers.pairs import noise
from helpers.pairs.split import choose_heldout, is_training

NOTEBOOK = "notebook 02_build_pairs"


def build_pairs(config: Config) -> dict:
    """Write `out/pairs/` (contexts_indptr.npy, contexts.npy, heldout.npy, noise.npy, manifest.json); returns the manifest.

    Raises ArtefactError where the corpus is missing, ConfigError where the split leaves nothing to train on.
    """
    refuse_another_run(config, corpus=False)
    papers, indptr, cited, report = open_corpus(config)
    N = len(papers)
    citing = np.repeat(np.arange(N, dtype=np.int32), np.diff(indptr))
    generator = np.random.default_rng(config.seed)
    eligible = None
    if config.heldout_after is not None:
        years = papers["year"].to_numpy()
        eligible = years[citing] > config.heldout_after  # a missing year is NaN and never later
        if not eligible.any():
            raise ConfigError(
                f"heldout_after = {config.heldout_after} hides nothing: no paper with citations has a later year; take an earlier one."
            )
    hidden = choose_heldout(citing, config.heldout, generator, eligible)
    training = is_training(citing, cited, hidden, N)
    if not training.any():
        raise ConfigError(f"heldout = {config.heldout} leaves no citation to train on, of {len(citing):,}; take a smaller fraction.")
    targets, contexts = np.concatenate([citing[training], cited[training]]), np.concatenate([cited[training], citing[training]])
    pairs_indptr, contexts = csr(targets, contexts, N)
    heldout = generator.permutation(np.stack([citing[hidden], cited[hidden]], axis=1).astype(np.int32))
    with new_folder(config.folder("pairs")) as folder:
        np.save(folder / "contexts_indptr.npy", pairs_indptr)
        np.save(folder / "contexts.npy", contexts)
        np.save(folder / "heldout.npy", heldout)
        np.save(folder / "noise.npy", noise.alias_table(np.diff(pairs_indptr), config.noise_power))
        facts = {
            "papers": N,
            "pairs": len(contexts),
            "heldout": len(heldout),
            "reversed_citations_left_out": int((~training & ~hidden).sum()),
        }
        write_manifest(folder, **facts, config=config.part(PAIRS_SETTINGS), corpus=report["sha256"])
    return read_manifest(config.folder("pairs"), NOTEBOOK)


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
