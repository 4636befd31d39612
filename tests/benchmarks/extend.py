"""cit-HepTh up to a date, extended by two years, against a full retraining on the same newer corpus and the same held-out split."""

import contextlib
import dataclasses
import io
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from helpers.config import Config
from helpers.corpus.build import FEW_CITATIONS, build_corpus, open_corpus
from helpers.neighbors.evaluate import evaluate, validation_scores
from helpers.neighbors.search import nearest
from helpers.pairs.build import Pairs, build_pairs
from helpers.rows.files import Float32Rows, as_stored
from helpers.training.checkpoint import Checkpoint
from helpers.training.loop import train
from tests import real_data

DATE, YEARS, K = 2000, 2, 10
EPOCHS = 8  # over the pairs of new papers: together less than a quarter of what ten epochs over all pairs are
RATES = (0.07, 0.1, 0.15, 0.22)
LEAST_KEPT = 0.9  # of old papers' neighbours, for a rate to be chosen
SETTINGS = dict(subset="all", dimensions=128, block_pairs=1 << 17)


def run(quick: bool = False) -> dict[str, float] | None:
    """extend_mrr_vs_retrain, extend_old_neighbours_kept, the same of the retraining, extend_pairs_share: means of three seeds.

    The learning rate is chosen on seed 0's validation half; the MRR is the test half's. --quick: seed 0 alone, the rate 0.15.
    """
    if real_data.paper_data() is None:
        print("This benchmark needs real citation data: set PAPER_DATA to its folder.")
        return None
    found = []
    with tempfile.TemporaryDirectory() as folder:
        dumps, rate = real_data.cit_hepth(Path(folder)), RATES[2] if quick else None
        for seed in range(1 if quick else 3):
            trial = Trial(Path(folder) / str(seed), dumps, seed)
            rate = rate or choose_rate(trial)
            found.append(trial.figures(rate))
            print(f"seed {seed}: " + ", ".join(f"{name} {value:.4f}" for name, value in found[-1].items()), flush=True)
    means = {name: float(np.mean([figures[name] for figures in found])) for name in found[0]}
    return {"extend_mrr_vs_retrain": means["extend_mrr"] / means["retrain_mrr"], **means, "extend_learning_rate": rate}


class Trial:
    """One seed's old run and its newer corpus."""

    def __init__(self, folder: Path, dumps: tuple[str, str], seed: int):
        make = {"dumps": dumps, "seed": seed, **SETTINGS}
        self.old = Config.of_preset("cs", out=folder / "old", last_year=DATE, heldout=0, **make)
        self.new = Config.of_preset("cs", out=folder / "retrained", last_year=DATE + YEARS, heldout_after=DATE, **make)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            for config in (self.old, self.new):
                build_corpus(config)
                build_pairs(config)
        self.pairs = Pairs(self.new)
        old, new = (open_corpus(config, ["paper_id", "degree"])[0] for config in (self.old, self.new))
        self.rows = pc.index_in(old["paper_id"], value_set=new["paper_id"]).to_numpy()  # of the old papers in the newer corpus
        self.queries = np.flatnonzero(old["degree"].to_numpy() >= FEW_CITATIONS)
        self.neighbours = self.nearest_old(quietly(self.old, Pairs(self.old)), np.arange(len(old)))

    def nearest_old(self, trained: Checkpoint, rows: np.ndarray) -> np.ndarray:
        """The K nearest old papers of each query, old numbers (n, K); rows: of the old papers in this run."""
        return nearest(Float32Rows(as_stored(trained.target))[rows], self.queries, K)[0]

    def kept(self, trained: Checkpoint) -> float:
        """The mean share of the old papers' K nearest old papers that are still among them."""
        now = self.nearest_old(trained, self.rows)
        return float(np.mean([len(np.intersect1d(*both)) / K for both in zip(self.neighbours, now, strict=True)]))

    def extended(self, rate: float) -> Checkpoint:
        """The old run extended, from the beginning."""
        config = dataclasses.replace(
            self.new, out=self.new.out.replace("retrained", "extended"), extends=self.old.out, epochs=EPOCHS, learning_rate=rate
        )
        shutil.rmtree(config.out, ignore_errors=True)
        Path(config.out).mkdir()
        for name in ("corpus", "pairs"):
            config.folder(name).symlink_to(self.new.folder(name))
        return quietly(config, self.pairs)

    def figures(self, rate: float) -> dict[str, float]:
        """What the two runs reach."""
        runs = {"extend": self.extended(rate), "retrain": quietly(self.new, self.pairs)}
        trained = {name: run.log[-1]["pairs"] for name, run in runs.items()}
        figures = {"extend_pairs_share": trained["extend"] / trained["retrain"]}
        for name, run in runs.items():
            figures[f"{name}_mrr"] = evaluate(self.pairs, *tables(run))["mrr"]
            figures[f"{name}_old_neighbours_kept"] = self.kept(run)
        return figures


def quietly(config: Config, pairs: Pairs) -> Checkpoint:
    """The finished run, without its progress and its words."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return train(config, pairs)


def tables(trained: Checkpoint) -> list[np.ndarray]:
    """Both tables, float32 (N, D)."""
    return [Float32Rows(as_stored(rows))[:] for rows in (trained.target, trained.context)]


def choose_rate(trial: Trial) -> float:
    """The rate with the best validation MRR among those that keep LEAST_KEPT of the old papers' neighbours."""
    score, scores = validation_scores(trial.pairs, most=1500), {}
    for rate in RATES:
        trained = trial.extended(rate)
        scores[rate] = score(*tables(trained))["mrr"], trial.kept(trained)
        print(f"learning rate {rate}: validation MRR {scores[rate][0]:.4f}, old neighbours kept {scores[rate][1]:.3f}", flush=True)
    return max([rate for rate in RATES if scores[rate][1] >= LEAST_KEPT] or RATES[:1], key=lambda rate: scores[rate][0])
