"""The sample end to end: `helpers run --preset sample` in a process of its own, its time, and how good its neighbours are."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.config import ROOT
from helpers.export.embeddings import open_embeddings
from helpers.neighbors.search import nearest

K = 10


def planted_shares(run: Path) -> dict[str, float]:
    """Of the K nearest papers (target-target cosine) of every sample paper, the share with the same planted topic, and field."""
    papers, target, _, _ = open_embeddings(run / "embeddings")
    truth = pd.read_csv(ROOT / "data" / "topics.csv.gz", dtype=str).set_index("paper_id")
    ids = papers["paper_id"].to_pandas()
    planted = ids.isin(truth.index).to_numpy()
    rows = np.flatnonzero(planted)
    neighbours, _ = nearest(target, rows, K, allowed=planted)
    shares = {}
    for level in ("topic", "field"):
        value = ids.map(truth["domain"] + "/" + truth["field"] + ("/" + truth["topic"] if level == "topic" else "")).to_numpy()
        shares[f"same_{level}_at_10"] = float((value[neighbours] == value[rows][:, None]).mean())
    return shares


def run(quick: bool = False) -> dict[str, float]:
    """The figures seconds (wall, the whole command), mrr, mrr_random, mrr_popularity, same_topic_at_10, same_field_at_10."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "helpers", "run", "--preset", "sample", "--out", out], cwd=ROOT, check=True)
        seconds = time.perf_counter() - start
        metrics = json.loads((out / "metrics.json").read_text())
        return {
            "seconds": seconds,
            "mrr": metrics["mrr"],
            "mrr_random": metrics["baselines"]["random"]["mrr"],
            "mrr_popularity": metrics["baselines"]["popularity"]["mrr"],
            **planted_shares(out),
        }
