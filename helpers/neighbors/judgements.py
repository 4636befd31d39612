"""What readers said of answers: good or bad, kept in a CSV, by which any vectors of the same papers can be measured."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from helpers.artefacts import new_file
from helpers.errors import ArtefactError, UserError
from helpers.neighbors.search import Search

COLUMNS = ["query", "paper_id", "good"]
TOGETHER = " | "  # between the ids of papers that were asked together


def read_judgements(path: Path) -> pd.DataFrame:
    """The judgements of a file, COLUMNS, with good "1" or "0"; none where there is no file; raises ArtefactError for another file."""
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError:
        table = pd.DataFrame()
    if list(table.columns) != COLUMNS or not table["good"].isin(["0", "1"]).all():
        raise ArtefactError(f"{path} is no table of judgements (columns {', '.join(COLUMNS)}, good 1 or 0); mend it, or move it away.")
    return table


def judge(path: Path, asked: list[str], answers: pd.DataFrame, good: str, bad: str) -> pd.DataFrame:
    """Add what a reader said of answers to a file, whole or not at all; what was said before of the same answers is replaced.

    asked: ids of the query's papers; answers: with rank and paper_id; good, bad: ranks, as "1, 3-5". Returns all; raises UserError.
    """
    ranks = {1: _ranks(good), 0: _ranks(bad)}
    if unknown := (ranks[0] | ranks[1]) - set(answers["rank"].tolist()):
        raise UserError(f"There is no answer of rank {min(unknown)}; ranks go from 1 to {len(answers)}.")
    if both := ranks[0] & ranks[1]:
        raise UserError(f"Answer {min(both)} is marked good and bad; take it out of one.")
    id_of, query = dict(zip(answers["rank"], answers["paper_id"], strict=True)), TOGETHER.join(asked)
    new = [(query, id_of[rank], str(value)) for value, marked in ranks.items() for rank in sorted(marked)]
    table = pd.concat([read_judgements(path), pd.DataFrame(new, columns=COLUMNS)]).drop_duplicates(COLUMNS[:2], keep="last")
    if new:
        with new_file(path) as file:
            table.to_csv(file, index=False)
    return table


def _ranks(text: str) -> set[int]:
    # The numbers that "1, 3-5" names
    if not re.fullmatch(r"[\s,]*(\d+(\s*-\s*\d+)?[\s,]*)*", text):
        raise UserError(f"{text!r} names no ranks; write them as 1, 3-5.")
    spans = re.findall(r"(\d+)(?:\s*-\s*(\d+))?", text)
    return {rank for first, last in spans for rank in range(int(first), min(int(last or first), int(first) + 10_000) + 1)}


def judged(path: Path, search: Search, k: int = 10) -> pd.DataFrame:
    """How judged answers come out with these vectors, a line a query: how many are good, and how many of those in the first k."""
    lines, ids = [], search.papers["paper_id"]
    for query, said in read_judgements(path).groupby("query", sort=False):
        rows = pc.indices_nonzero(pc.is_in(ids, pa.array(query.split(TOGETHER), ids.type))).to_numpy().astype(np.int64)
        if len(rows):
            good_of = dict(zip(said["paper_id"], said["good"] == "1", strict=True))
            first = [good_of[paper] for paper in search.near(rows, k)["paper_id"] if paper in good_of]
            lines.append((query, len(good_of), np.mean(list(good_of.values())), len(first), np.mean(first) if first else np.nan))
    return pd.DataFrame(lines, columns=["query", "judged", "good", f"judged in first {k}", f"good in first {k}"])
