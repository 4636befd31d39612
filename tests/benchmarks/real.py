"""The whole path on real data (the folder that PAPER_DATA names): Medline reviews, NLP papers, hep-th by date."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.config import ROOT
from helpers.corpus.build import open_corpus
from helpers.export.embeddings import open_embeddings
from helpers.neighbors.search import Search, find_papers, nearest
from tests import real_data
from tests.csr import csr

ACL_TITLES = ("Statistical phrase-based translation", "GloVe", "Distant supervision for relation extraction")


def run(quick: bool = False) -> dict[str, float] | None:
    """The figures medline_papers, medline_citations, medline_same_review_at_1 and _at_10, {medline,acl,hepth}_{mrr,hits_at_10,...}."""
    if real_data.paper_data() is None:
        print("This benchmark needs real citation data: set PAPER_DATA to its folder.")
        return None
    with tempfile.TemporaryDirectory() as folder:
        figures, place = {}, Path(folder)
        medline = helpers_run(
            place / "medline", "--preset", "medline", "--dump", real_data.paper_data() / "openalex-medline-works.jsonl.gz"
        )
        figures |= same_review(medline) | link_figures("medline", medline)
        if quick:
            return figures
        acl = helpers_run(place / "acl", "--preset", "cs", "--dump", *real_data.acl())
        papers, target, _, _ = open_embeddings(acl / "embeddings")
        for title in ACL_TITLES:
            show(papers, target, int(find_papers(papers, title)[0]))
        figures |= link_figures("acl", acl)
        hepth = helpers_run(place / "hepth", "--preset", "cs", "--heldout-after", 2000, "--dump", *real_data.cit_hepth(place))
        return figures | link_figures("hepth", hepth)


def helpers_run(out: Path, *arguments) -> Path:
    """`helpers run --subset all` with the arguments, in a process of its own; returns its folder."""
    subprocess.run([sys.executable, "-m", "helpers", "run", "--subset", "all", "--out", out, *map(str, arguments)], cwd=ROOT, check=True)
    return out


def show(papers, vectors, paper: int) -> None:
    """Print a paper and its ten neighbours."""
    row = papers.slice(paper, 1).to_pylist()[0]
    print(f"\n{row['title']} ({row['year']}, {row['degree']} citations, {row['paper_id']})")
    found = Search(papers, vectors, vectors).near(paper)[["score", "title", "year", "citations"]]
    print(found.to_string(index=False, justify="left", max_colwidth=95), flush=True)


def link_figures(name: str, out: Path) -> dict[str, float]:
    """Held-out MRR and hits@10 of the chosen reading, and the MRR of the baselines."""
    metrics = json.loads((out / "metrics.json").read_text())
    baselines = {f"{name}_mrr_{baseline.replace(' ', '_')}": scores["mrr"] for baseline, scores in metrics["baselines"].items()}
    return {f"{name}_mrr": metrics["mrr"], f"{name}_hits_at_10": metrics["hits@10"], **baselines}


def same_review(out: Path) -> dict[str, float]:
    """How often the nearest works (cosine of target rows, among works with a record) belong to the same systematic review.

    Asked of the works with a record that have another one within two citation steps; prints ten neighbours of one work a review.
    """
    class_run = type("Run", (), {"folder": lambda self, stage: out / stage})()
    papers, indptr, cited, report = open_corpus(class_run)
    N = len(papers)
    citing = np.repeat(np.arange(N), np.diff(indptr))
    around_indptr, around = csr(np.concatenate([citing, cited]), np.concatenate([cited, citing]), N)
    has_record = papers["has_record"].to_numpy()

    def step(rows: np.ndarray) -> np.ndarray:
        return np.concatenate([around[around_indptr[row] : around_indptr[row + 1]] for row in rows] or [np.empty(0, np.int32)])

    def has_company(paper: int) -> bool:
        near = step(np.array([paper]))
        reached = np.concatenate([near, step(near)])
        return bool((has_record[reached] & (reached != paper)).any())

    asked = np.array([paper for paper in np.flatnonzero(has_record) if has_company(paper)])
    truth = pd.read_csv(real_data.paper_data() / "synergy" / "nodes.tsv.gz", sep="\t").set_index("openalex_id")["reviews"]
    reviews = papers["paper_id"].to_pandas().map(truth).str.split("|")
    exported, target, _, _ = open_embeddings(out / "embeddings")
    allowed = np.zeros(N, bool)
    allowed[asked] = True
    neighbours, _ = nearest(target, asked, 10, allowed)
    same = np.array(
        [[bool(set(reviews[paper]) & set(reviews[other])) for other in row] for paper, row in zip(asked, neighbours, strict=True)]
    )
    in_corpus = [int(has_record[step(np.array([paper]))].sum()) for paper in asked]  # shown: of each review the work best connected
    shown = pd.DataFrame({"review": [reviews[paper][0] for paper in asked], "paper": asked, "in_corpus": in_corpus})
    for review, paper in shown.sort_values("in_corpus", kind="stable").groupby("review")["paper"].last().items():
        print(f"\nReview {review}")
        show(exported, target, int(paper))
    return {
        "medline_papers": report["papers"]["kept"],
        "medline_citations": report["citations"]["kept"],
        "medline_asked": len(asked),
        "medline_same_review_at_1": float(same[:, 0].mean()),
        "medline_same_review_at_10": float(same.mean()),
    }
