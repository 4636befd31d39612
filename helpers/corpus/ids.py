"""Keys -> papers: every paper of some shards gets a number, and citations become pairs of numbers in a file."""

from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from helpers.corpus.citations import INSIDE, MIRRORED, OUTSIDE, UNRECORDED
from helpers.corpus.keys import KEYS_AT_A_TIME, KeyTable, grown, ids_of, keys_of, pieces
from helpers.corpus.other_ids import join_other_ids, mark_outside
from helpers.corpus.shards import KEPT, same_key
from helpers.errors import DumpError

MOST_PAPERS = (1 << 31) - 1


class Batches:
    """The record batches of many memory-mapped files as one list of rows."""

    def __init__(self, files: list[Path]):
        self._batches = [batch for file in files if file.exists() for batch in _batches_of(file)]
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)
        self.rows = int(self._ends[-1]) if self._batches else 0

    def take(self, rows: np.ndarray) -> pa.Table:
        """The rows, in any order, of int64 (n,)."""
        order = np.argsort(rows, kind="stable")
        rows, parts = rows[order], []
        batch_of = np.searchsorted(self._ends, rows, side="right")
        for batch in np.unique(batch_of):
            first = self._ends[batch] - self._batches[batch].num_rows
            parts.append(self._batches[batch].take(pa.array(rows[batch_of == batch] - first)))
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return pa.Table.from_batches(parts).combine_chunks().take(pa.array(back))

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return iter(self._batches)


def _batches_of(file: Path) -> list[pa.RecordBatch]:
    reader = pa.ipc.open_file(pa.memory_map(str(file)))
    return [reader.get_batch(i) for i in range(reader.num_record_batches)]


class Ids:
    """The papers of some shards, numbered in order of appearance: records first, then what only citations name.

    state: uint8 (n,), INSIDE, OUTSIDE the subset, or UNRECORDED; records: how many records inside the subset were read.
    """

    def __init__(self, shards: list[Path]):
        self.kept, self.names = Batches([shard / "papers.arrow" for shard in shards]), Batches([shard / "names.arrow" for shard in shards])
        self.records = self.kept.rows
        self.state, self.place, self.key = np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.uint64)
        self.renamed = np.empty(0, bool)  # of each paper: whether its record goes by another id of it

    def papers(self, some: np.ndarray) -> pa.Table:
        """KEPT of some papers, int (n,): a record's values, or nothing but its id."""
        place = self.place[some]
        recorded, named = np.flatnonzero(self.state[some] == INSIDE), np.flatnonzero((self.state[some] == UNRECORDED) & (place >= 0))
        plain = np.setdiff1d(np.arange(len(some)), np.concatenate([recorded, named]))
        parts = [self.kept.take(place[recorded])] if len(recorded) else []
        for rows, ids in ((named, lambda: self.names.take(place[named])["id"]), (plain, lambda: ids_of(self.key[some[plain]]))):
            if len(rows):
                parts.append(
                    pa.table({field.name: ids() if field.name == "paper_id" else pa.nulls(len(rows), field.type) for field in KEPT})
                )
        back = np.argsort(np.concatenate([recorded, named, plain]))
        papers = pa.concat_tables(parts).combine_chunks().take(pa.array(back))
        if not (renamed := self.renamed[some]).any():
            return papers
        written = papers["paper_id"].combine_chunks()
        own = pc.coalesce(ids_of(self.key[some[renamed]]), written.filter(pa.array(renamed)))
        return papers.set_column(0, "paper_id", pc.replace_with_mask(written, pa.array(renamed), own))


def number_papers(shards: list[Path], keep_unrecorded: bool, edges: Path, report) -> Ids:
    """Number the papers and write their citations to the file `edges`: uint32 pairs (citing, 2 x cited + MIRRORED).

    What only citations name is numbered too, where keep_unrecorded; else its citations are dropped, and counted in the report, as are
    those of records that a later record of the same id replaces. Papers of which the shards tell another id are joined.
    """
    ids = Ids(shards)
    table = KeyTable(ids.records)
    papers, dropped = report.dropped["papers"], report.dropped["citations"]
    last = np.full(0, -1, np.int32)  # of each paper: its record, the last one where there are several
    state, rows, of_record = np.empty(0, np.uint8), 0, []
    for shard in shards:
        for keys, inside in zip(pieces(shard / "records.u64", np.uint64), pieces(shard / "inside.u8", np.uint8), strict=True):
            numbers = table.add(keys[inside == 1])
            of_record.append(numbers)
            all_numbers = np.empty(len(keys), np.int32)
            all_numbers[inside == 1], all_numbers[inside == 0] = numbers, table.find(keys[inside == 0])
            last, state = grown(last, table.count, -1), grown(state, table.count, UNRECORDED)
            duplicates, rows = _place_records(all_numbers, inside, last, state, rows)
            papers["duplicate id"] += duplicates
            papers["outside the subset"] += int((all_numbers < 0).sum())
    papers["outside the subset"] += int((state == OUTSIDE).sum())
    of_record = np.concatenate([np.empty(0, np.int32), *of_record])
    _refuse_shared_keys(ids, of_record, last)
    is_last = last[of_record] == np.arange(len(of_record))
    joins = any((shard / "other_ids.u64").exists() for shard in shards)
    mapped = table.add if keep_unrecorded or joins else table.find
    with open(edges, "wb") as file:
        first = 0
        for shard in shards:
            counts = [
                np.fromfile(shard / f"{name}.i32", np.int32) if (shard / f"{name}.i32").exists() else np.empty(0, np.int32)
                for name in ("references", "cited_by")
            ]
            own = slice(first, first + len(counts[0]))
            first = own.stop
            for name, of_each, mirrored in zip(("references", "cited_by"), counts, (0, MIRRORED), strict=True):
                here = np.repeat(np.where(is_last[own], of_record[own], -1), of_each)
                for place, keys in enumerate(pieces(shard / f"{name}.u64", np.uint64)):
                    others, these = mapped(keys), here[place * KEYS_AT_A_TIME :][: len(keys)]
                    dropped["listed by an earlier record of a duplicate id"] += int((these < 0).sum())
                    _write_edges(file, *((others, these) if mirrored else (these, others)), mirrored, these >= 0, dropped)
            for citing, cited in zip(pieces(shard / "citing.u64", np.uint64), pieces(shard / "cited.u64", np.uint64), strict=True):
                _write_edges(file, mapped(citing), mapped(cited), 0, np.ones(len(citing), bool), dropped)
    if table.count > MOST_PAPERS:
        raise DumpError(f"{table.count:,} papers are more than an int32 can number; choose a subset.")
    ids.state, last = grown(state, table.count, UNRECORDED), grown(last, table.count, -1)
    ids.place = last.astype(np.int64)
    del last
    mark_outside(shards, table, ids.state)
    checks = _find_names(ids, table)
    ids.renamed = np.zeros(table.count, bool)
    if joins and table.count:
        join_other_ids(ids, table, checks, shards, edges, keep_unrecorded, report)
    return ids


@numba.njit(cache=True)
def _place_records(numbers, inside, last, state, rows):
    """Note the records of a piece, in their order; returns (duplicates, rows of records inside the subset so far)."""
    duplicates = 0
    for i in range(len(numbers)):
        paper = numbers[i]
        if paper >= 0:
            duplicates += state[paper] != UNRECORDED
            state[paper] = INSIDE if inside[i] else OUTSIDE
            if inside[i]:
                last[paper] = rows
        rows += inside[i]
    return duplicates, rows


def _write_edges(file, citing: np.ndarray, cited: np.ndarray, mirrored: int, valid: np.ndarray, dropped) -> None:
    known = (citing >= 0) & (cited >= 0)
    if missing := int((valid & ~known).sum()):
        dropped["dangling"] += missing
    edges = np.empty((int((valid & known).sum()), 2), np.uint32)
    edges[:, 0], edges[:, 1] = citing[valid & known], cited[valid & known].astype(np.uint32) * np.uint32(2) + np.uint32(mirrored)
    file.write(edges)


def _refuse_shared_keys(ids: Ids, of_record: np.ndarray, last: np.ndarray) -> None:
    """Raise DumpError where two records with one key have different ids."""
    double = np.flatnonzero(last[of_record] != np.arange(len(of_record)))
    for first in range(0, len(double), KEYS_AT_A_TIME // 8):
        some = double[first : first + KEYS_AT_A_TIME // 8]
        here, there = (ids.kept.take(rows.astype(np.int64))["paper_id"] for rows in (some, last[of_record[some]]))
        if not pc.all(pc.equal(here, there)).as_py():
            raise DumpError(same_key(here.filter(pc.not_equal(here, there))[0].as_py()))


def _find_names(ids: Ids, table: KeyTable) -> np.ndarray:
    """Where the id of each unrecorded paper is to be found: its name's row, or its key; and that no two ids share a key.

    Returns the checks of the ids, uint32 (n,), 0 where unknown.
    """
    ids.key, checks = np.empty(table.count, np.uint64), np.zeros(table.count, np.uint32)
    slots, numbers = table.contents()
    ids.key[numbers] = slots
    for batch in ids.kept:
        keys, of_batch = keys_of(batch["paper_id"])
        checks[table.find(keys)] = of_batch
    row = 0
    for batch in ids.names:
        numbers, of_batch = table.find(batch["key"].to_numpy()), batch["check"].to_numpy()
        known = numbers >= 0
        new = known & (checks[numbers] == 0)
        checks[numbers[new]] = of_batch[new]
        if len(differing := np.flatnonzero(known & (checks[numbers] != of_batch))):
            raise DumpError(same_key(batch["id"][differing[0]].as_py()))
        unrecorded = known & (ids.state[numbers] == UNRECORDED)
        ids.place[numbers[unrecorded]] = row + np.flatnonzero(unrecorded)
        row += batch.num_rows
    return checks
