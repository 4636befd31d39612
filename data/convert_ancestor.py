"""The ancestor's own dump as tables that notebook 01 reads: `python data/convert_ancestor.py CITATIONS.h5 FOLDER` (needs h5py).

Written from its description: in the HDF5 file `labels0`, `labels1`, ... hold row ids, `batch0`, `batch1`, ... for each of them a list of
row ids: whom it cites and who cites it, not told apart. A pair is taken as a citation of the larger row by the smaller: the other end's
mention is a duplicate, which notebook 01 counts. In the same folder lie pickles, dicts or lists, row -> title and row -> S2 id (told apart
by what is in them); a paper's id is its S2 id, or else its row. FOLDER gets citations.csv and papers.csv.
"""

import csv
import itertools
import pickle
import re
import sys
from pathlib import Path

import numpy as np

AT_A_TIME = 20_000  # rows
PICKLES = (".pickle", ".pkl", ".p")
S2_ID = re.compile(r"[0-9a-f]{40}")


class _Plain(pickle._Unpickler):  # the one written in Python: C's sets aside whatever memory a damaged file asks for
    # Plain containers, strings and numbers only: nothing is imported, so nothing can run

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def texts_of(path: Path) -> dict[int, str]:
    """The texts of a pickle by row; SystemExit with one sentence where it is none of plain values."""
    try:
        with open(path, "rb") as file:
            values = _Plain(file).load()
        by_row = values if isinstance(values, dict) else dict(enumerate(values))
        return {int(row): " ".join(value.split()) for row, value in by_row.items() if isinstance(value, str) and value.strip()}
    except Exception as error:  # a damaged pickle may end in any exception there is
        sys.exit(f"{path} is not a pickle of plain dicts, lists, strings and numbers alone ({_in_a_line(error)}).")


def _in_a_line(error: Exception) -> str:
    return "".join(mark if mark.isprintable() else "?" for mark in str(error)[:200]) or type(error).__name__


def lists_of(path: Path):
    """Yield (row, the rows that it lists), all int, of an HDF5 file; SystemExit with one sentence where it is damaged or another's."""
    try:
        import h5py

        with h5py.File(path, "r") as datasets:
            parts = sorted(int(name[5:]) for name in datasets if re.fullmatch(r"batch\d{1,9}", name))
            if not parts:
                raise ValueError("it has no batch0")
            for part in parts:
                labels, lists = datasets[f"labels{part}"], datasets[f"batch{part}"]
                kind = lists.id.get_type()
                if not isinstance(kind, h5py.h5t.TypeVlenID) or kind.encode()[3]:  # neither lists nor texts: the library would crash
                    raise ValueError(f"batch{part} holds no lists")
                if len(labels) > path.stat().st_size:
                    raise ValueError(f"batch{part} would be larger than the file")
                for first in range(0, len(labels), AT_A_TIME):
                    rows = labels[first : first + AT_A_TIME].astype(np.int64)
                    found = [others.astype(np.int64).tolist() for others in lists[first : first + AT_A_TIME]]
                    if rows.min(initial=0) < 0 or len(found) != len(rows):
                        raise ValueError(f"batch{part} does not belong to labels{part}")
                    yield from zip(rows.tolist(), found, strict=True)
    except Exception as error:  # damage shows as any of a dozen exceptions
        sys.exit(f"{path} is damaged or not the ancestor's ({_in_a_line(error)}); download it again, or pip install h5py.")


def convert(path: Path, folder: Path) -> tuple[int, int]:
    """Write `citations.csv` and `papers.csv`, whole or not at all; returns how many papers and pairs the file lists."""
    titles, ids = {}, {}
    for other in sorted(other for other in path.parent.iterdir() if other.suffix.lower() in PICKLES):
        texts = texts_of(other)
        (ids if all(map(S2_ID.fullmatch, itertools.islice(texts.values(), 100))) else titles).update(texts)
    papers = pairs = 0
    folder.mkdir(parents=True, exist_ok=True)
    names = "citations.csv", "papers.csv"
    with (
        open(folder / f".{names[0]}", "w", newline="", encoding="utf-8") as of_citations,
        open(folder / f".{names[1]}", "w", newline="", encoding="utf-8") as of_papers,
    ):
        citations, table = csv.writer(of_citations), csv.writer(of_papers)
        citations.writerow(["citing", "cited"])
        table.writerow(["paper_id", "title", "year"])
        for row, others in lists_of(path):
            table.writerow([ids.get(row, row), titles.get(row, ""), ""])
            known = [(min(row, other), max(row, other)) for other in others if other >= 0]
            citations.writerows([ids.get(one, one), ids.get(two, two)] for one, two in known)
            papers, pairs = papers + 1, pairs + len(known)
    for name in names:
        (folder / f".{name}").replace(folder / name)
    return papers, pairs


if __name__ == "__main__":
    if len(sys.argv) != 3 or not Path(sys.argv[1]).is_file():
        sys.exit("Give an HDF5 file that exists, and a folder for the tables: python data/convert_ancestor.py CITATIONS.h5 FOLDER.")
    of_papers, of_pairs = convert(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"{of_papers:,} papers and {of_pairs:,} mentions of citations are in {sys.argv[2]}: give that folder to notebook 01.")
