"""What finds cited papers without training rows: popularity, neighbourhoods, SVD of the SPPMI matrix; and rows held against SPPMI."""

# SPPMI[i, j] = max(0, ln(P n(i, j) / (d(i) d(j))) - ln K): n(i, j) how often j is a context of i, d degrees, P all pairs. It is the matrix
# that SGNS factorises (Levy and Goldberg 2014).

from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils.extmath import randomized_svd

from helpers.corpus.citations import entries
from helpers.pairs.build import Pairs

PIP_ROWS = 4096  # that PIP loss looks at; in smaller tables at all
SVD_PAPERS = 1 << 18  # of more there is no SVD: it would take minutes

Scores = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]  # (queries (n,), papers (n, m)) -> name -> scores (n, m)


def baselines(pairs: Pairs, citations: tuple[np.ndarray, np.ndarray] | None = None, seed: int = 0) -> Scores:
    """Scores of pairs of papers: random, popularity, common neighbours, Adamic-Adar, co-citation kNN, SVD of SPPMI.

    citations: (indptr int64 (N+1,), cited int32 (E,)), for co-citation, less those held out. Adamic-Adar (2003): 1 / ln degree(w), over
    shared neighbours w. Co-citation kNN: co-cited(r, paper) / sqrt(cited(r) cited(paper)), over the query's references r."""
    N, generator, degree = pairs.papers, np.random.default_rng(seed), np.diff(pairs.indptr)
    around, rare = _graph(pairs.indptr, pairs.contexts), 1 / np.log(np.maximum(degree, 2)).astype(np.float32)
    tables = factorised(pairs, min(128, N)) if N <= SVD_PAPERS else ()
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


def sppmi(pairs: Pairs, rows: np.ndarray, negatives: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entries of these rows, int (R,): which of the rows int64 (n,), column int64 (n,), value > 0 float32 (n,)."""
    degree = np.diff(pairs.indptr)
    of, places = entries(pairs.indptr, rows)
    keys, counts = np.unique(of * pairs.papers + pairs.contexts[places], return_counts=True)
    of, columns = np.divmod(keys, pairs.papers)
    values = np.log(counts * (float(degree.sum()) / degree[rows][of] / degree[columns] / negatives)).astype(np.float32)
    return of[values > 0], columns[values > 0], values[values > 0]


def factorised(pairs: Pairs, D: int, negatives: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(U sqrt(S), V sqrt(S)), float32 (N, D) each, of SPPMI = U S V', the D largest S, randomised (Halko et al. 2011)."""
    of, columns, values = sppmi(pairs, np.arange(pairs.papers), negatives)
    matrix = csr_array((values, (of, columns)), (pairs.papers, pairs.papers))
    left, S, right = randomized_svd(matrix, D, n_oversamples=16, n_iter=4, random_state=seed)
    return left * np.sqrt(S), right.T * np.sqrt(S)


def pip_loss(pairs: Pairs, table, negatives: int = 5, seed: int = 0) -> float:
    """How far inner products of rows E are from SPPMI: min over c of |c E E' - SPPMI| / |SPPMI| (Frobenius), from 0 to 1.

    Pairwise inner product loss (Yin and Shen 2018), but the length of all rows and the mean row, which is subtracted, are left free: the
    learning rate's and the noise's doing. table: reads as float32 (N, D). Of more than PIP_ROWS papers so many rows are compared."""
    N = pairs.papers
    rows = np.sort(np.random.default_rng(seed).choice(N, min(N, PIP_ROWS), replace=False))
    of, columns, values = sppmi(pairs, rows, negatives)
    needed, column_of = np.unique(columns, return_inverse=True)
    E, others = np.asarray(table[rows], np.float32), np.asarray(table[needed], np.float32)
    E, others = E - E.mean(axis=0), others - E.mean(axis=0)
    mixed = csr_array((values, (of, column_of)), (len(rows), len(needed))) @ others
    shared = float(np.einsum("nd,nd->", E, mixed, dtype=np.float64))
    products = np.square(E @ E.T)  # of rows drawn at random: what all N rows give is estimated from these, without bias
    same = products.trace(dtype=np.float64)
    square = same + (products.sum(dtype=np.float64) - same) * (N - 1) / max(len(rows) - 1, 1)
    norms = square * float((values.astype(np.float64) ** 2).sum())
    return float(np.sqrt(max(0.0, 1 - max(shared, 0.0) ** 2 / norms))) if norms else 1.0
