"""What finds cited papers without training a table of rows: popularity, neighbourhoods, and a truncated SVD of the SPPMI matrix."""

from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_array

from helpers.neighbors.sppmi import factorised
from helpers.pairs.build import Pairs

SVD_DIMENSIONS = 128
SVD_PAPERS = 1 << 18  # of more there is no SVD: it would take minutes

Scores = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]  # (queries (n,), papers (n, m)) -> name -> scores (n, m)


def baselines(pairs: Pairs, citations: tuple[np.ndarray, np.ndarray] | None = None, seed: int = 0) -> Scores:
    """Scores of pairs of papers: random, popularity, common neighbours, Adamic-Adar, co-citation kNN, SVD of SPPMI.

    citations: (indptr int64 (N+1,), cited int32 (E,)) by citing paper, held-out ones among them, which are not used; without them there is
    no co-citation, of more than SVD_PAPERS papers no SVD. Adamic-Adar (2003): shared neighbours w, each 1 / ln degree(w). Co-citation kNN:
    the sum, over the query's references r, of co-cited(r, paper) / sqrt(cited(r) cited(paper)).
    """
    N, generator, degree = pairs.papers, np.random.default_rng(seed), np.diff(pairs.indptr)
    around, rare = _graph(pairs.indptr, pairs.contexts), 1 / np.log(np.maximum(degree, 2)).astype(np.float32)
    tables = factorised(pairs, min(SVD_DIMENSIONS, N)) if N <= SVD_PAPERS else ()
    if citations:
        cites, (citing, cited) = _graph(*citations), pairs.heldout.T
        hidden = csr_array((np.ones(2 * len(cited), np.float32), (np.append(citing, cited), np.append(cited, citing))), (N, N))
        cites -= cites.multiply(hidden > 0)
        cites.data /= np.sqrt(np.bincount(cites.indices, cites.data, minlength=N)[cites.indices])
        cited_with = cites.T.tocsr()

    def scores(queries, papers):
        own = around[queries]
        found = {"random": generator.random(papers.shape), "popularity": degree[papers], "common neighbours": _of(own @ around, papers)}
        own.data *= rare[own.indices]
        found["Adamic-Adar"] = _of(own @ around, papers)
        if citations:
            references = cites[queries]
            references.data[:] = 1
            found["co-citation kNN"] = _of(references @ cited_with @ cites, papers)
        if tables:
            found["SVD of SPPMI"] = np.matmul(tables[1][papers], tables[0][queries][:, :, None])[:, :, 0]
        return found

    return scores


def _of(scores: csr_array, papers: np.ndarray) -> np.ndarray:
    # scores[i, papers[i, j]], dense (n, m)
    scores.sort_indices()  # or each is looked for from end to end
    values = scores[np.arange(len(papers))[:, None], papers]
    return values.toarray() if hasattr(values, "toarray") else values


def _graph(indptr: np.ndarray, ends: np.ndarray) -> csr_array:
    return csr_array((np.ones(len(ends), np.float32), ends, indptr), (len(indptr) - 1,) * 2)
