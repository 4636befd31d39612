"""Find papers by id or title, and the nearest papers to them."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch

from helpers.corpus.build import FEW_CITATIONS
from helpers.errors import UserError

CHUNK_ROWS = 1 << 15  # rows compared at a time


def answerable(papers: pa.Table) -> np.ndarray:
    """Which papers can be shown as answers, bool (N,): those with a title, or all where none has one (a bare edge list)."""
    titled = papers["title"].is_valid().to_numpy()
    return titled if titled.any() else np.ones(len(papers), bool)


def find_papers(papers: pa.Table, query: str, most: int = 10) -> np.ndarray:
    """Rows of the papers whose id is `query` or whose title contains it (letter case ignored), most cited first, at most `most`.

    papers: with paper_id and title, in descending degree. An empty query gives the most cited that can be shown. UserError for no match.
    """
    if not query:
        return np.flatnonzero(answerable(papers))[:most]
    rows = pc.indices_nonzero(pc.equal(papers["paper_id"], query)).to_numpy()
    if not len(rows):
        rows = pc.indices_nonzero(pc.match_substring(papers["title"], query, ignore_case=True)).to_numpy()
    if not len(rows):
        raise UserError(f"No paper has the id {query!r} or a title that contains it; try fewer or other words.")
    return rows[:most].astype(np.int64)


def normalised(rows: np.ndarray) -> np.ndarray:
    """rows / |rows|, float32 (n, D); rows of length 0 stay 0."""
    rows = np.asarray(rows, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def nearest(vectors: np.ndarray, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The k rows with the highest cosine to each query row, best first: (rows int64 (n, k), cosines float32 (n, k)).

    vectors: float (N, D), possibly memory-mapped; queries: rows int (n,); allowed: bool (N,), which rows may be answers (a query's own
    row never is). Raises UserError where fewer than k rows could be answers.
    """
    N = len(vectors)
    most = max(0, N - 1 if allowed is None else int(allowed.sum() - allowed[queries].max(initial=False)))
    if k > most:
        raise UserError(f"{k} neighbours were asked for, but only {most:,} papers can be answers; ask for fewer or loosen the filters.")
    queries = np.asarray(queries)
    query_rows = torch.from_numpy(normalised(vectors[queries]))
    best, cosines = torch.empty(len(queries), 0, dtype=torch.int64), torch.empty(len(queries), 0)
    for first in range(0, N, CHUNK_ROWS):
        last = min(first + CHUNK_ROWS, N)
        scores = query_rows @ torch.from_numpy(normalised(vectors[first:last])).T
        if allowed is not None:
            scores[:, torch.from_numpy(~allowed[first:last])] = -torch.inf
        own = np.flatnonzero((first <= queries) & (queries < last))
        scores[own, queries[own] - first] = -torch.inf
        top, places = scores.topk(min(k, last - first))
        cosines, best = torch.cat([cosines, top], dim=1), torch.cat([best, places + first], dim=1)
        cosines, places = cosines.topk(min(k, cosines.shape[1]))
        best = best.gather(1, places)
    return best.numpy(), cosines.numpy()


def neighbour_table(papers: pa.Table, vectors: np.ndarray, query: int, k: int = 10) -> pd.DataFrame:
    """The k nearest answerable papers of one paper (fewer in a tiny corpus) as a table to read: rank, cosine, title, year, citations."""
    allowed = answerable(papers)
    k = min(k, int(allowed.sum()) - int(allowed[query]))
    rows, cosines = nearest(vectors, np.array([query]), k, allowed)
    found = papers.select(["title", "year", "degree", "paper_id"]).take(rows[0]).to_pandas(integer_object_nulls=True)
    found.insert(0, "rank", np.arange(1, k + 1))
    found.insert(1, "cosine", cosines[0].astype(float).round(3))
    found.insert(5, "few citations", found["degree"] < FEW_CITATIONS)
    return found.rename(columns={"degree": "citations"})
