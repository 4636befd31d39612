"""Finished embeddings in the forms a user asks for, each with its size before and its recall after."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from helpers.artefacts import finished
from helpers.errors import ConfigError
from helpers.export.drive import check_space
from helpers.export.formats import FORMS, write_form
from helpers.neighbors.search import nearest
from helpers.rows.bfloat16 import ReadThrough

RECALL_QUERIES = 500


def recall_at_10(table: np.ndarray, forms: list[str], shown: np.ndarray | None = None, seed: int = 0) -> dict[str, float]:
    """Of the 10 nearest rows (cosine) of RECALL_QUERIES random papers, the share that each form still has among its 10.

    table: float (N, D), rows as trained; shown: bool (N,), the papers asked for and about (None: all).
    """
    possible = np.arange(len(table)) if shown is None else np.flatnonzero(shown)
    queries = np.sort(np.random.default_rng(seed).permutation(possible)[:RECALL_QUERIES])
    k = min(10, len(possible) - 1)
    if k < 1:
        return dict.fromkeys(forms, 1.0)
    exact, _ = nearest(table, queries, k, shown)

    def recall(form: str) -> float:
        as_read = ReadThrough(lambda rows: FORMS[form].read_back(rows.astype(np.float32)), table)
        found, _ = nearest(as_read, queries, k, shown)
        return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(exact, found, strict=True)]))

    return {form: recall(form) for form in forms}


def sizes(forms: list[str], N: int, D: int) -> dict[str, int]:
    """Bytes that each form of two N x D tables will take, about (the projector's: of its points); raises ConfigError for other forms."""
    if isinstance(forms, str) or not forms:
        raise ConfigError(f"FORMS = {forms!r} must be a list of at least one form; choose among {', '.join(FORMS)}.")
    if unknown := [form for form in forms if form not in FORMS]:
        raise ConfigError(f"Form {unknown[0]!r} does not exist; choose among {', '.join(FORMS)}.")
    return {form: FORMS[form].bytes(N, D) for form in forms}


def export_forms(out: Path, forms: list[str], tables: dict[str, np.ndarray], papers: pa.Table, facts: dict) -> list[Path]:
    """Write `out/FORM/` for each form, with papers.parquet and a manifest of its own; returns the folders.

    tables: {"target": (N, D), "context": (N, D)}, float, possibly memory-mapped; papers: row, paper_id, title, year, degree; facts: for
    the manifests. Raises ArtefactError where the disk has not room for all of them.
    """
    N, D = tables["target"].shape
    out.mkdir(parents=True, exist_ok=True)
    missing = [form for form in forms if not finished(out / form, {**facts, "form": form})]
    if there := [form for form in forms if form not in missing]:
        print(f"Written before from these very vectors: {', '.join(there)}", flush=True)
    check_space(out, sum(sizes(forms, N, D)[form] for form in missing))
    for form in missing:
        write_form(out / form, form, tables, papers, facts)
    return [out / form for form in forms]
