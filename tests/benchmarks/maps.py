"""Maps: t-SNE and figure of 300 answers; the map of 2 million papers with its topics, figure and page; how many neighbours share a topic.

Vectors are synthetic, float16 in a file: a topic's centre, a subtopic's and noise; titles hold their topic's words. The sample's purity is
read off the page that a run of its own makes.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
from scipy.spatial import cKDTree

from helpers import figures
from helpers.artefacts import new_array
from helpers.config import ROOT
from helpers.neighbors.explore import lay_out, map_papers, name_topics, write_page
from helpers.rows.files import pieces
from tests.benchmarks.scale import peak_gb

FOLDER = ROOT / "runs" / "maps"
PAPERS, DIMENSIONS, TOPICS, SUBTOPICS = 2_000_000, 128, 100, 10
K = 10


def run(quick: bool = False) -> dict[str, float]:
    """The figures of issue 10 on maps; `quick`: a hundredth of the papers, and no run of the sample."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    N, measured = PAPERS // (100 if quick else 1), {}
    papers, vectors, topic = planted(N)

    def timed(name: str, function):
        start, cpu = time.perf_counter(), time.process_time()
        value = function()
        measured[f"{name}_s"], measured[f"{name}_cpu_s"] = time.perf_counter() - start, time.process_time() - cpu
        print(f"{name}: {measured[f'{name}_s']:.1f} s, {measured[f'{name}_cpu_s']:.1f} s of CPU", flush=True)
        return value

    some = np.random.default_rng(0).choice(N, 300, replace=False)
    titles, years = papers["title"].take(some).to_pylist(), papers["year"].take(some).to_numpy().astype(float)
    timed("results_300", lambda: figures.result_map("", lay_out(vectors[some]), titles, years, 1).savefig(FOLDER / "results.png"))
    points = timed("corpus_points", lambda: map_papers(vectors))
    topics = timed("corpus_topics", lambda: name_topics(points, papers["title"]))
    timed("corpus_figure", lambda: figures.corpus_map(f"{N:,} papers", points, topics).savefig(FOLDER / "corpus.png"))
    page = FOLDER / "papers.html"
    measured["page_papers"] = timed("page", lambda: write_page(page, f"{N:,} papers", papers, points, topics))
    measured["page_mb"], measured["topics_named"] = page.stat().st_size / 1e6, len(topics)
    some = np.random.default_rng(1).choice(N, min(N, 20_000), replace=False)
    near = cKDTree(points).query(points[some], K + 1)[1][:, 1:]
    measured["synthetic_purity"] = float((topic[near] == topic[some][:, None]).mean())
    measured["rss_gb"] = peak_gb()
    (FOLDER / "target.npy").unlink()
    return measured if quick else measured | {"sample_purity": sample_purity()}


def planted(N: int) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """(papers, vectors float16 (N, D) in a file, topic int (N,)): topics in the proportions of Zipf's law, each of SUBTOPICS."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((TOPICS, DIMENSIONS)).astype(np.float32)
    narrower = centres[:, None] + 0.6 * generator.standard_normal((TOPICS, SUBTOPICS, DIMENSIONS)).astype(np.float32)
    shares = 1 / np.arange(3, TOPICS + 3)
    topic = generator.choice(TOPICS, N, p=shares / shares.sum())
    words, titles = invented(generator), []
    vectors = new_array(FOLDER / "target.npy", np.float16, (N, DIMENSIONS))
    for rows in pieces(N):
        here = topic[rows]
        of_sub = generator.integers(0, SUBTOPICS, len(here))
        noise = generator.standard_normal((len(here), DIMENSIONS), np.float32)
        vectors[rows] = narrower[here, of_sub] + 0.8 * noise
        drawn = [words[here, generator.integers(0, words.shape[1], len(here))] for _ in range(3)]
        drawn += [words[generator.integers(0, TOPICS, len(here)), generator.integers(0, words.shape[1], len(here))] for _ in range(3)]
        titles.append(pa.compute.binary_join_element_wise(*(pa.array(of.tolist()) for of in drawn), " "))
    years = pa.array(generator.integers(1970, 2021, N), pa.int16())
    ids = pa.compute.binary_join_element_wise("W", pa.array(np.arange(N)).cast(pa.string()), "")
    degree = pa.array(np.sort(generator.zipf(2.0, N).clip(0, 10**5))[::-1].astype(np.int32))
    table = pa.table({"paper_id": ids, "title": pa.chunked_array(titles), "year": years, "degree": degree})
    return table, np.load(FOLDER / "target.npy", mmap_mode="r"), topic


def invented(generator: np.random.Generator) -> np.ndarray:
    """Made-up words, str (TOPICS, 12)."""
    syllables = np.array(["ba", "ke", "li", "mo", "nu", "ra", "si", "ta", "ve", "zo", "dri", "phe"])
    return np.array([["".join(generator.choice(syllables, 4)) for _ in range(12)] for _ in range(TOPICS)])


def page_papers(page: Path) -> pd.DataFrame:
    """The papers of a page: title, id, link, year, citations, field, x, y."""
    data = re.search(r'<script type="application/json" id="papers">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)[1]
    return pd.DataFrame(json.loads(data)["papers"], columns=["title", "id", "link", "year", "citations", "field", "x", "y"])


def purity(page: Path) -> float:
    """Of the K nearest papers of each on a page of the sample, the share with the same planted topic."""
    papers = page_papers(page)
    truth = pd.read_csv(ROOT / "data" / "topics.csv.gz", dtype=str).set_index("paper_id")
    topic = papers["id"].map(truth["domain"] + "/" + truth["field"] + "/" + truth["topic"])
    points, topic = papers.loc[topic.notna(), ["x", "y"]].to_numpy(float), topic.dropna().to_numpy()
    points += np.random.default_rng(0).random(points.shape)  # whole numbers: papers at the same place come in no order
    near = cKDTree(points).query(points, K + 1)[1][:, 1:]
    return float((topic[near] == topic[:, None]).mean())


def sample_purity() -> float:
    """`purity` of a run of the sample."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        subprocess.run([sys.executable, "-m", "helpers", "run", "--preset", "sample", "--out", out], cwd=ROOT, check=True)
        shutil.copy(out / "maps" / "corpus.png", FOLDER / "sample.png")
        return purity(out / "maps" / "papers.html")
