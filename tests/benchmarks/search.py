"""Exact search over every vector: 64 queries at the sizes of CS and Medline, beside faiss, and titles by substring.

Vectors and titles are synthetic and lie in files, which are mapped. To be run under a memory cap of 4 GiB. Rates are bytes of vectors read
a second; their fraction is of what one pass over memory reads, by torch in as many threads. faiss: IndexFlatIP, the same threads, in turn.
"""

import shutil
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from helpers.artefacts import new_array
from helpers.config import ROOT
from helpers.export.embeddings import dequantised, quantised
from helpers.neighbors.search import find_papers, top_k
from helpers.rows.files import ReadThrough, pieces
from tests.benchmarks.scale import peak_gb

FOLDER = ROOT / "runs" / "search"
SIZES = {"cs": (2_150_127, 512, "float16"), "medline": (14_886_544, 188, "int8")}
QUERIES, K = 64, 10
BESIDE_FAISS = 1_000_000, 188
WORDS = ("deep", "gene", "network", "protein", "learning", "cell", "graph", "method", "analysis", "model", "cancer", "quantum", "brain")


def run(quick: bool = False) -> dict[str, float]:
    """The figures of issue 9 on search; `quick`: a hundredth of the papers."""
    figures, small = {"memory_gb_s": memory_rate()}, 100 if quick else 1
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, (N, D, dtype) in SIZES.items():
        vectors, size = made(name, N // small, D, dtype)
        queries = np.asarray(vectors[np.linspace(0, len(vectors) - 1, QUERIES).astype(int)], np.float32)
        top_k([(queries, vectors)], K, True)  # from the disk into memory, as far as it fits
        seconds = timed(lambda queries=queries, vectors=vectors: top_k([(queries, vectors)], K, True), 2)
        figures |= {f"{name}_query_batch_s": seconds, f"{name}_gb_s": size / 1e9 / seconds}
        figures[f"{name}_memory_fraction"] = figures[f"{name}_gb_s"] / figures["memory_gb_s"]
    figures["vs_faiss"] = beside_faiss(BESIDE_FAISS[0] // small, BESIDE_FAISS[1])
    papers = titles(SIZES["medline"][0] // small)
    figures["title_search_s"] = timed(lambda: find_papers(papers, "quantum brain model of cancer"), 3)
    shutil.rmtree(FOLDER)
    return figures | {"rss_gb": peak_gb()}


def timed(function, repeats: int) -> float:
    """Seconds of one call, the best of some."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def memory_rate() -> float:
    """GB a second that torch reads, adding up half a GB of float32."""
    values = torch.ones(1 << 27)
    return values.nbytes / 1e9 / timed(values.sum, 5)


def made(name: str, N: int, D: int, dtype: str):
    """(vectors as a search reads them, bytes) of random vectors in a file."""
    generator = np.random.default_rng(0)
    stored, scales = new_array(FOLDER / f"{name}.npy", np.dtype(dtype), (N, D)), np.empty(N, np.float32)
    for rows in pieces(N):
        values = generator.standard_normal(stored[rows].shape, np.float32)
        if dtype == "int8":
            values, scales[rows] = quantised(values)
        stored[rows] = values
    return (ReadThrough(dequantised, stored, scales) if dtype == "int8" else stored), stored.nbytes


def beside_faiss(N: int, D: int) -> float:
    """Our rate over faiss's, on the same vectors, queries and threads; the answers are the same."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    generator = np.random.default_rng(0)
    vectors, queries = (generator.standard_normal((rows, D), np.float32) for rows in (N, QUERIES))
    index = faiss.IndexFlatIP(D)
    index.add(vectors)
    times, answers = {"ours": [], "faiss": []}, {}
    for _ in range(3):
        for name, search in (("ours", lambda: top_k([(queries, vectors)], K, False)[0]), ("faiss", lambda: index.search(queries, K)[1])):
            start = time.perf_counter()
            answers[name] = search()
            times[name].append(time.perf_counter() - start)
    assert (answers["ours"] == answers["faiss"]).mean() > 0.99
    print(f"{N:,} x {D} float32, {QUERIES} queries: ours {min(times['ours']):.2f} s, faiss {min(times['faiss']):.2f} s", flush=True)
    return min(times["faiss"]) / min(times["ours"])


def titles(N: int) -> pa.Table:
    """N papers with titles of eight words, the query's words among them, as one opens them from a file."""
    generator, words = np.random.default_rng(0), pa.array(WORDS)
    with pq.ParquetWriter(FOLDER / "papers.parquet", pa.schema({"paper_id": pa.string(), "title": pa.string()})) as file:
        for rows in pieces(N):
            drawn = [words.take(pa.array(generator.integers(0, len(words), rows.stop - rows.start))) for _ in range(8)]
            ids = pa.array(np.arange(rows.start, rows.stop)).cast(pa.string())
            title = pa.compute.binary_join_element_wise(*drawn, " ")
            if rows.start == 0:
                title = pa.concat_arrays([pa.array(["A quantum brain model of cancer in mice"]), title[1:]])
            file.write_table(pa.table({"paper_id": ids, "title": title}))
    return pq.read_table(FOLDER / "papers.parquet", memory_map=True)
