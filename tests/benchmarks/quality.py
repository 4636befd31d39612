"""How good the vectors are, by the protocols of tests/protocols.py: hidden citations, classes and links of public graphs."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from helpers.config import ROOT
from helpers.neighbors.search import fold_in
from tests import protocols, real_data

QUICK_READING = "target.context + context.target"
LINK_SPLITS = (0, 1, 2)  # seeds: which links are hidden moves the AUC by a point
REACH = 32  # smoothing steps of the vectors that map topics


def run(quick: bool = False) -> dict[str, float] | None:
    """{hepth,paperscape,acl}_{mrr,hits_at_10}, all scores' MRR beside it; {cora,citeseer,pubmed}_{accuracy,auc,ap}, {auc,ap}_centred.

    One reading serves all three sets: the one with the best mean MRR on their validation splits, each trained for it. --quick trains on
    hep-th's test split alone and takes QUICK_READING.
    """
    if real_data.paper_data() is None:
        print("This benchmark needs real citation data: set PAPER_DATA to its folder.")
        return None
    if quick:
        return hidden_citations(("hepth",), QUICK_READING)
    return hidden_citations(protocols.SETS, validated_reading(protocols.SETS)) | far_vectors(protocols.PLANETOID) | folded_in()


def trained(citations: np.ndarray, ids: list[str] | None, *arguments: str) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """(target, context, row of each id) that `helpers run` makes of the citations int (E, 2), in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        dump, out = protocols.write_edges(citations, ids, Path(folder) / "train.csv"), Path(folder) / "run"
        command = [sys.executable, "-m", "helpers", "run", "--preset", "cs", "--subset", "all", "--dimensions", "128", "--heldout", "0"]
        subprocess.run([*command, "--dump", str(dump), "--out", str(out), *arguments], cwd=ROOT, check=True)
        papers = pq.read_table(out / "embeddings" / "papers.parquet", columns=["row", "paper_id"])
        row_of_id = dict(zip(papers["paper_id"].to_pylist(), papers["row"].to_pylist(), strict=True))
        target, context = (np.load(out / "embeddings" / f"{table}.npy") for table in ("target", "context"))
        return target, context, row_of_id


def readings(name: str, part: str) -> tuple[protocols.Split, dict[str, dict[str, float]]]:
    """The split and the figures of every reading of the vectors trained on it."""
    split = protocols.load(name, part)
    return split, protocols.link_mrr(*trained(split.train, split.ids), split)


def validated_reading(names: tuple[str, ...]) -> str:
    """The reading with the best mean MRR on the validation splits of these sets."""
    found = [readings(name, "validation")[1] for name in names]
    means = {reading: np.mean([of_set[reading]["mrr"] for of_set in found]) for reading in found[0]}
    for reading, mean in means.items():
        print(f"validation, mean of {', '.join(names)}: {mean:.4f}  {reading}", flush=True)
    return max(means, key=means.get)


def hidden_citations(names: tuple[str, ...], chosen: str) -> dict[str, float]:
    """Test figures of the chosen reading, of every reading, and of what needs no training; prints their table."""
    figures = {}
    for name in names:
        split, found = readings(name, "test")
        simple = {score: protocols.summary(ranks) for score, ranks in protocols.ranks(split, protocols.simple_scores(split)).items()}
        print(f"\n{name}: {len(split.train):,} citations trained on, {len(split.questions):,} asked, {len(split.candidates):,} candidates")
        for score, of_score in (found | simple).items():
            print(
                f"  {score:<32} MRR {of_score['mrr']:.4f}  hits@10 {of_score['hits@10']:.4f}{'  <- chosen' * (score == chosen)}", flush=True
            )
        figures |= {f"{name}_mrr": found[chosen]["mrr"], f"{name}_hits_at_10": found[chosen]["hits@10"]}
        figures |= {f"{name}_mrr_{_plain(score)}": of_score["mrr"] for score, of_score in (found | simple).items()}
    return figures


def far_vectors(names: tuple[str, ...]) -> dict[str, float]:
    """Test accuracy of the public splits, and AUC and AP of hidden links (means of LINK_SPLITS), from vectors with a reach of REACH."""
    figures = {}
    for name in names:
        classes = protocols.planetoid(name)
        target, _, row_of_id = trained(classes.edges, None, "--reach", str(REACH))
        figures[f"{name}_accuracy"] = protocols.accuracy(target, row_of_id, classes)
        found = []
        for seed in LINK_SPLITS:
            links = protocols.links(name, seed)
            target, _, row_of_id = trained(links.train, None, "--reach", str(REACH))
            found.append(protocols.link_figures(target, row_of_id, links))
            print(f"{name}, split {seed}: " + ", ".join(f"{figure} {value:.2f}" for figure, value in found[-1].items()), flush=True)
        figures |= {f"{name}_{figure}": float(np.mean([of_split[figure] for of_split in found])) for figure in found[0]}
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
        tables = trained(train, ids)
        target, context = (protocols.rows_of(table, tables[2], ids) for table in tables[:2])
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
