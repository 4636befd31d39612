"""How good the vectors are, by the protocols of tests/protocols.py: hidden citations, classes and links of public graphs, reviews.

Trained in this process by the package's own functions: that the files are those of `helpers run` is checked for the vectors before the
first epoch (of whatever threads do afterwards, no two runs are the same bits).
"""

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from helpers.config import ROOT, Config
from helpers.corpus.build import build_corpus, open_corpus
from helpers.models.smoothing import smooth_trained
from helpers.neighbors.search import fold_in
from helpers.pairs.build import Pairs, build_pairs
from tests import protocols, real_data
from tests.benchmarks.cpu import our_training, settings
from tests.peers import gensim_train, sppmi_svd

QUICK_READING = "target.context + context.target"
SEEDS = range(10)  # of the training and of which links are hidden: that alone moves the AUC of Cora and Citeseer by a point or two
REACH = 32  # smoothing steps where nothing is chosen
REACHES = (8, 16, 32, 64)  # what is chosen from on validation, with SETTINGS and the two readings of links
SETTINGS = ({}, {"learning_rate": 0.03}, {"learning_rate": 0.15}, {"pairs_from": "walks"})
GENSIM = tuple({"alpha": alpha, "epochs": epochs} for alpha in (0.125, 0.25) for epochs in (5, 10))
GENSIM_NOISE = {"acl": 0.0}  # noise power, where it is not 0.5
NOT_OURS = ("random", "popularity", "co-citation kNN", "Adamic-Adar", "SVD of SPPMI")


def run(quick: bool = False) -> dict[str, float] | None:
    """{hepth,paperscape,acl}_{mrr,hits_at_10,auc}, ..._gensim, ..._best_baseline; {cora,citeseer,pubmed}_{accuracy,auc,ap} and ..._chosen.

    And synergy_same_review_at_10, synergy_included_ap, foldin_fraction. One reading of hidden citations serves all three sets: the one with
    the best mean MRR on their validation splits, each trained for it. --quick trains on hep-th's test split and one split of Cora alone.
    """
    if real_data.paper_data() is None:
        print("This benchmark needs real citation data: set PAPER_DATA to its folder.")
        return None
    if quick:
        return hidden_citations(("hepth",), QUICK_READING, peers=False) | far_vectors(("cora",), SEEDS[:1], SETTINGS[:1])
    as_helpers_run()
    figures = far_vectors(protocols.PLANETOID, SEEDS, SETTINGS)
    return figures | hidden_citations(protocols.SETS, validated_reading(protocols.SETS)) | similar_works() | folded_in()


@dataclass(frozen=True)
class Run:
    """What `helpers run` makes of a dump: training pairs (CSR), rows by id, and, once trained, both tables float32 (N, D)."""

    indptr: np.ndarray
    contexts: np.ndarray
    row_of_id: dict[str, int]
    target: np.ndarray | None = None
    context: np.ndarray | None = None

    @classmethod
    def of_dump(cls, dump: Path) -> "Run":
        """The pairs that the command makes of a dump with `--preset cs --subset all --heldout 0`."""
        with tempfile.TemporaryDirectory() as folder, quiet():
            config = Config.of_preset("cs", subset="all", heldout=0.0, dumps=[dump], out=folder)
            build_corpus(config)
            build_pairs(config)
            pairs, papers = Pairs(config), open_corpus(config, ["paper_id"])[0]
            row_of_id = {paper: row for row, paper in enumerate(papers["paper_id"].to_pylist())}
            return cls(np.array(pairs.indptr), np.array(pairs.contexts), row_of_id)

    @classmethod
    def of_citations(cls, citations: np.ndarray, ids: list[str] | None) -> "Run":
        """The same of citations int (E, 2); ids None: the numbers are the ids."""
        with tempfile.TemporaryDirectory() as folder:
            return cls.of_dump(protocols.write_edges(citations, ids, Path(folder) / "train.csv"))

    def trained(self, **changes) -> "Run":
        """Trained with 128 dimensions and the preset's settings, but for the changes."""
        with quiet():
            target, context = our_training(settings(128, **{"epochs": 10, **changes}), self).tables
        return replace(self, target=target[:], context=context[:])

    def far(self, reach: int) -> np.ndarray:
        """The target rows that `--reach` exports, float16 (N, D)."""
        rows = np.empty(self.target.shape, np.float16)
        with quiet():
            for columns, values in smooth_trained(self.indptr, self.contexts, self.target, reach):
                rows[:, columns] = values
        return rows


@contextlib.contextmanager
def quiet():
    """Without what the package prints, and its progress."""
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        yield


def as_helpers_run() -> None:
    """RuntimeError where `helpers run --reach` exports other vectors of Cora than we make here, both before the first epoch."""
    links = protocols.links("cora")
    ours = Run.of_citations(links.train, None).trained(epochs=0).far(REACH)
    with tempfile.TemporaryDirectory() as folder:
        dump, out = protocols.write_edges(links.train, None, Path(folder) / "train.csv"), Path(folder) / "run"
        command = [sys.executable, "-m", "helpers", "run", "--preset", "cs", "--subset", "all", "--dimensions", "128", "--heldout", "0"]
        command += ["--reach", str(REACH), "--epochs", "0", "--dump", str(dump), "--out", str(out)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        if not np.array_equal(np.load(out / "embeddings" / "target.npy"), ours):
            raise RuntimeError("`helpers run --epochs 0` exports other vectors than this process makes")
    print("Cora before the first epoch: `helpers run --reach 32` exports the vectors that are made here, bit by bit.", flush=True)


def readings(name: str, part: str) -> tuple[protocols.Split, dict[str, dict[str, float]]]:
    """The split and the figures of every reading of the vectors trained on it."""
    split = protocols.load(name, part)
    vectors = Run.of_citations(split.train, split.ids).trained()
    return split, protocols.link_mrr(vectors.target, vectors.context, vectors.row_of_id, split)


def validated_reading(names: tuple[str, ...]) -> str:
    """The reading with the best mean MRR on the validation splits of these sets."""
    found = [readings(name, "validation")[1] for name in names]
    means = {reading: np.mean([of_set[reading]["mrr"] for of_set in found]) for reading in found[0]}
    for reading, mean in means.items():
        print(f"validation, mean of {', '.join(names)}: {mean:.4f}  {reading}", flush=True)
    return max(means, key=means.get)


def gensim_tuned(name: str, test: protocols.Split) -> dict[str, float]:
    """Test figures of gensim by the setting of GENSIM and the reading that are best on the validation split; initial rows x 10."""
    fixed = {"initial_scale": 10, "noise_power": GENSIM_NOISE.get(name, 0.5)}

    def found(split, setting):
        tables = gensim_train(split, 128, **setting, **fixed)
        return protocols.link_mrr(tables.target, tables.context, None, split)

    validation, best = protocols.load(name, "validation"), (0.0, {}, "")
    for setting in GENSIM:
        of_setting = found(validation, setting)
        reading = max(of_setting, key=lambda reading: of_setting[reading]["mrr"])
        best = max(best, (of_setting[reading]["mrr"], setting, reading), key=lambda tried: tried[0])
    print(f"{name}, gensim: validation MRR {best[0]:.4f} by {best[1]}, {best[2]}", flush=True)
    return found(test, best[1])[best[2]]


def hidden_citations(names: tuple[str, ...], chosen: str, peers: bool = True) -> dict[str, float]:
    """Test figures of the chosen reading, of every reading, of what needs no training, gensim and SVD (peers); prints their table."""
    figures = {}
    for name in names:
        split, found = readings(name, "test")
        of = protocols.rivals(split)
        found |= {score: protocols.summary(ranks, of) for score, ranks in protocols.ranks(split, protocols.simple_scores(split)).items()}
        if peers:
            svd = protocols.link_mrr(*sppmi_svd(split, 128), None, split)
            found["SVD of SPPMI"] = max(svd.values(), key=lambda of_reading: of_reading["mrr"])
            found["gensim"] = gensim_tuned(name, split)
        print(f"\n{name}: {len(split.train):,} citations trained on, {len(split.questions):,} asked, {len(split.candidates):,} candidates")
        for score, of_score in found.items():
            line = "".join(f"{kind} {value:.4f}  " for kind, value in of_score.items())
            print(f"  {score:<32} {line}{'<- chosen' * (score == chosen)}", flush=True)
        best = max((found[score] for score in NOT_OURS if score in found), key=lambda of_score: of_score["mrr"])
        for suffix, of_score in (("", found[chosen]), ("_gensim", found.get("gensim", {})), ("_best_baseline", best)):
            figures |= {f"{name}_{kind.replace('@', '_at_')}{suffix}": value for kind, value in of_score.items()}
        figures |= {f"{name}_mrr_{_plain(score)}": of_score["mrr"] for score, of_score in found.items()}
    return figures


def far_vectors(names: tuple[str, ...], seeds, trainings) -> dict[str, float]:
    """Means over the seeds of test accuracy, and AUC and AP of hidden links, in percent; with nothing chosen, and everything (_chosen).

    Nothing chosen: reach REACH, the dot product of two rows. Chosen: training settings, reach, and dot product or cosine; for links on
    each split's own validation links, for classes on the mean validation accuracy of all seeds, whose validation papers are the same.
    """
    figures = {}
    for name in names:
        classes, found = protocols.planetoid(name), {}
        every = Run.of_citations(classes.edges, None)
        accuracies = {key: [] for key in itertools.product(range(len(trainings)), REACHES)}
        for seed in seeds:
            links, scored = protocols.links(name, seed), {}
            of_links = Run.of_citations(links.train, None)
            for training, changes in enumerate(trainings):
                vectors, far = every.trained(seed=seed, **changes), of_links.trained(seed=seed, **changes)
                for reach in REACHES:
                    accuracies[training, reach].append(protocols.accuracies(vectors.far(reach), every.row_of_id, classes))
                    rows = far.far(reach)
                    parts = {part: protocols.link_figures(rows, of_links.row_of_id, links, part) for part in ("validation", "test")}
                    for reading in ("", "_cosine"):
                        scored[training, reach, reading] = [
                            {kind: parts[part][kind + reading] for kind in ("auc", "ap")} for part in ("validation", "test")
                        ]
            best = max(scored, key=lambda key: scored[key][0]["auc"])
            for suffix, key in (("", (0, REACH, "")), ("_cosine", (0, REACH, "_cosine")), ("_chosen", best)):
                for kind, value in scored[key][1].items():
                    found.setdefault(f"{name}_{kind}{suffix}", []).append(value)
            print(f"{name}, split {seed}: " + ", ".join(f"{figure} {values[-1]:.2f}" for figure, values in found.items()), end="; ")
            print(f"chosen: {trainings[best[0]] or 'the defaults'}, reach {best[1]}, {best[2][1:] or 'dot product'}", flush=True)
        best = max(accuracies, key=lambda key: np.mean(accuracies[key], axis=0)[0])
        found[f"{name}_accuracy"] = [test for _, test in accuracies[0, REACH]]
        found[f"{name}_accuracy_chosen"] = [test for _, test in accuracies[best]]
        print(f"{name}, classes, chosen: {trainings[best[0]] or 'the defaults'}, reach {best[1]}")
        for figure, values in found.items():
            print(f"  {figure:<24} {np.mean(values):.2f} +- {np.std(values):.2f}", flush=True)
        figures |= {figure: float(np.mean(values)) for figure, values in found.items()}
    return figures


def similar_works() -> dict[str, float]:
    """SYNERGY's figures in percent: ours by cosine at REACH (nothing chosen) and at reach 0, gensim's, those of shared neighbours."""
    vectors = Run.of_dump(real_data.paper_data() / "openalex-medline-works.jsonl.gz").trained()
    of = protocols.reviews(vectors.indptr, vectors.contexts, vectors.row_of_id)
    gensim = gensim_train(vectors, 128, **GENSIM[-1], initial_scale=10, noise_power=0.5)
    tables = {"": vectors.far(REACH), "_near": vectors.target, "_gensim": gensim.target}
    cosines = {suffix: protocols.unit(rows[of.rows].astype(np.float32)) for suffix, rows in tables.items()}
    cosines = {suffix: rows @ rows.T for suffix, rows in cosines.items()}
    cosines["_neighbourhood"] = protocols.neighbourhood_cosines(vectors.indptr, vectors.contexts, of.rows)
    figures = {}
    for suffix, of_table in cosines.items():
        figures |= {f"synergy_{figure}{suffix}": value for figure, value in protocols.similarity_figures(of_table, of).items()}
    print(f"\nsynergy, {len(of.rows):,} works: " + ", ".join(f"{figure} {value:.1f}" for figure, value in figures.items()), flush=True)
    return figures


def folded_in(papers: int = 1000, references: int = 8) -> dict[str, float]:
    """Papers of cit-HepTh that are folded in, against the same papers trained: hits@10 on a fifth of their references, by target.context.

    Trained: on all citations but those asked for. Folded in: on all citations but these papers', their rows made of the other four fifths
    of their references. Only papers with so many references; candidates are all other papers, the known references left out.
    """
    ids, _, _, citations = protocols.graph("hepth")
    generator = np.random.default_rng(0)
    new = np.zeros(len(ids), bool)
    new[generator.permutation(np.flatnonzero(np.bincount(citations[:, 0], minlength=len(ids)) >= references))[:papers]] = True
    own = generator.permutation(citations[new[citations[:, 0]] & ~new[citations[:, 1]]])
    own = own[np.argsort(own[:, 0], kind="stable")]
    _, firsts, counts = np.unique(own[:, 0], return_index=True, return_counts=True)
    asked = np.arange(len(own)) - np.repeat(firsts, counts) < np.repeat(np.maximum(counts // 5, 1), counts)
    others = citations[~new[citations[:, 0]]]
    hits = {}
    for way, train in (("trained", np.concatenate([others, own[~asked]])), ("folded in", others[~new[others[:, 1]]])):
        vectors = Run.of_citations(train, ids).trained()
        target, context = (protocols.rows_of(table, vectors.row_of_id, ids) for table in (vectors.target, vectors.context))
        found = []
        for paper in np.flatnonzero(new).tolist():
            known = own[~asked & (own[:, 0] == paper), 1]
            row = fold_in(target, known)[0] if way == "folded in" else target[paper]
            scores = context @ row
            scores[known], scores[new] = -np.inf, -np.inf
            found += [(scores > scores[reference]).sum() < 10 for reference in own[asked & (own[:, 0] == paper), 1]]
        hits[way] = float(np.mean(found))
        print(f"hepth, {new.sum():,} new papers, {len(found):,} references asked for, {way}: hits@10 {hits[way]:.4f}", flush=True)
    return {"foldin_fraction": hits["folded in"] / hits["trained"], "foldin_hits_at_10": hits["folded in"]}


def _plain(score: str) -> str:
    """The name of a score as part of a figure's name."""
    words = "".join(letter if letter.isalnum() else " " for letter in score.lower().replace("+", "plus"))
    return "_".join(words.split())
