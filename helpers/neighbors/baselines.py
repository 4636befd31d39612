"""What finds cited papers without training a table of rows: popularity, neighbourhoods, and a truncated SVD of the SPPMI matrix."""

from collections.abc import Callable

import numba
import numpy as np

from helpers.neighbors.sppmi import factorised
from helpers.pairs.build import Pairs

SVD_DIMENSIONS = 128
SVD_PAPERS = 1 << 18  # of more there is no SVD: it would take minutes

Scores = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]  # (queries (n,), papers (n, m)) -> name -> scores (n, m)


def baselines(pairs: Pairs, citations: tuple[np.ndarray, np.ndarray] | None = None, seed: int = 0) -> Scores:
    """Scores of pairs of papers: random, popularity, common neighbours, Adamic-Adar, co-citation kNN, SVD of SPPMI.

    citations: (indptr int64 (N+1,), cited int32 (E,)) by citing paper, held-out ones among them, which are not used; without them there is
    no co-citation, of more than SVD_PAPERS papers no SVD. Adamic-Adar (2003): shared neighbours w, each 1 / ln
    degree(w). Co-citation kNN: the sum, over the query's references r, of co-cited(r, paper) / sqrt(cited(r) cited(paper)).
    """
    generator, degree = np.random.default_rng(seed), np.diff(pairs.indptr)
    rare = 1 / np.log(np.maximum(degree, 2))
    cited_by = _cited_by(pairs.indptr, pairs.contexts, *citations) if citations else None
    rows, mirrored = factorised(pairs, SVD_DIMENSIONS) if pairs.papers <= SVD_PAPERS else (None, None)

    def scores(queries, papers):
        common, adamic_adar = _shared_neighbours(pairs.indptr, pairs.contexts, rare, queries, papers)
        found = {"random": generator.random(papers.shape), "popularity": degree[papers], "common neighbours": common}
        found["Adamic-Adar"] = adamic_adar
        if citations:
            found["co-citation kNN"] = _co_citations(pairs.indptr, pairs.contexts, *citations, cited_by, queries, papers)
        if rows is not None:
            found["SVD of SPPMI"] = np.matmul(mirrored[papers], rows[queries][:, :, None])[:, :, 0]
        return found

    return scores


@numba.njit(cache=True)
def _shared_neighbours(indptr, contexts, weights, queries, papers):
    # Of queries[i] and papers[i, j]: how many contexts they share, and the sum of those contexts' weights; float64 (n, m) each
    counts, weighed = np.zeros(papers.shape), np.zeros(papers.shape)
    count_of, weight_of = np.zeros(len(indptr) - 1, np.float32), np.zeros(len(indptr) - 1, np.float32)
    for i in range(len(queries)):
        for sign in (1, -1):  # two steps from the query; then back to zeros
            for p in range(indptr[queries[i]], indptr[queries[i] + 1]):
                between = contexts[p]
                for q in range(indptr[between], indptr[between + 1]):
                    count_of[contexts[q]] = count_of[contexts[q]] + 1 if sign > 0 else 0
                    weight_of[contexts[q]] = weight_of[contexts[q]] + weights[between] if sign > 0 else 0
            for j in range(papers.shape[1] if sign > 0 else 0):
                counts[i, j], weighed[i, j] = count_of[papers[i, j]], weight_of[papers[i, j]]
    return counts, weighed


@numba.njit(cache=True)
def _trained(indptr, contexts, citations_indptr, cited, paper, out):
    # Put the references of a paper that training sees, those among its contexts, into `out`; returns how many (both lists ascend)
    count, p = 0, indptr[paper]
    for c in range(citations_indptr[paper], citations_indptr[paper + 1]):
        while p < indptr[paper + 1] and contexts[p] < cited[c]:
            p += 1
        if p < indptr[paper + 1] and contexts[p] == cited[c]:
            out[count] = cited[c]
            count += 1
    return count


@numba.njit(cache=True)
def _cited_by(indptr, contexts, citations_indptr, cited):
    # By how many papers each one is cited, as training sees it, float32 (N,)
    N = len(indptr) - 1
    counts, references = np.zeros(N, np.float32), np.empty(N, np.int32)
    for paper in range(N):
        for r in references[: _trained(indptr, contexts, citations_indptr, cited, paper, references)]:
            counts[r] += 1
    return counts


@numba.njit(cache=True)
def _co_citations(indptr, contexts, citations_indptr, cited, cited_by, queries, papers):
    N = len(indptr) - 1
    scores, score_of = np.zeros(papers.shape), np.zeros(N, np.float32)
    own, others, touched = np.empty(N, np.int32), np.empty(N, np.int32), np.empty(N, np.int32)
    for i in range(len(queries)):
        marked = 0
        for r in own[: _trained(indptr, contexts, citations_indptr, cited, queries[i], own)]:
            for p in range(indptr[r], indptr[r + 1]):  # who cites r is among its contexts, twice if r cites it, too
                if contexts[p] == queries[i] or (p > indptr[r] and contexts[p] == contexts[p - 1]):
                    continue
                references = others[: _trained(indptr, contexts, citations_indptr, cited, contexts[p], others)]
                place = np.searchsorted(references, r)
                if place == len(references) or references[place] != r:
                    continue
                for v in references:
                    if score_of[v] == 0:
                        touched[marked] = v
                        marked += 1
                    score_of[v] += 1 / np.sqrt(cited_by[r])
        for j in range(papers.shape[1]):
            if score_of[papers[i, j]] > 0:
                scores[i, j] = score_of[papers[i, j]] / np.sqrt(cited_by[papers[i, j]])
        score_of[touched[:marked]] = 0
    return scores
