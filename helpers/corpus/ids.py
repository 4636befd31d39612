"""Keys -> papers: every paper of some shards gets a number, and citations become pairs of numbers in a file."""

from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from helpers.corpus.citations import INSIDE, MIRRORED, OUTSIDE, UNRECORDED
from helpers.corpus.keys import KeyTable, ids_of, keys_of
from helpers.corpus.records import KEPT
from helpers.corpus.shards import same_key
from helpers.errors import DumpError

KEYS_AT_A_TIME = 1 << 21
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

    def papers(self, some: np.ndarray) -> pa.Table:
        """KEPT of some papers, int (n,): a record's values, or nothing but its id."""
        place = self.place[some]
        recorded, named = np.flatnonzero(self.state[some] == INSIDE), np.flatnonzero((self.state[some] == UNRECORDED) & (place >= 0))
        plain = np.setdiff1d(np.arange(len(some)), np.concatenate([recorded, named]))
        parts = [self.kept.take(place[recorded])] if len(recorded) else []
        if parts and self.renamed[some[recorded]].any():  # a record known by another id only
            own = pc.if_else(pa.array(self.renamed[some[recorded]]), ids_of(self.key[some[recorded]]), parts[0]["paper_id"])
            parts[0] = parts[0].set_column(0, KEPT.field(0), own)
        for rows, ids in ((named, lambda: self.names.take(place[named])["id"]), (plain, lambda: ids_of(self.key[some[plain]]))):
            if len(rows):
                parts.append(
                    pa.table({field.name: ids() if field.name == "paper_id" else pa.nulls(len(rows), field.type) for field in KEPT})
                )
        back = np.argsort(np.concatenate([recorded, named, plain]))
        return pa.concat_tables(parts).combine_chunks().take(pa.array(back))


def number_papers(shards: list[Path], keep_unrecorded: bool, edges: Path, report) -> Ids:
    """Number the papers and write their citations to the file `edges`: uint32 pairs (citing, 2 x cited + MIRRORED).

    What only citations name is numbered too, where keep_unrecorded; else its citations are dropped, and counted in the report, as are
    those of records that a later record of the same id replaces.
    """
    ids = Ids(shards)
    table = KeyTable(ids.records)
    papers, dropped = report.dropped["papers"], report.dropped["citations"]
    last = np.full(0, -1, np.int32)  # of each paper: its record, the last one where there are several
    state, rows, of_record = np.empty(0, np.uint8), 0, []
    for shard in shards:
        for keys, inside in zip(_pieces(shard / "records.u64", np.uint64), _pieces(shard / "inside.u8", np.uint8), strict=True):
            numbers = table.add(keys[inside == 1])
            of_record.append(numbers)
            all_numbers = np.empty(len(keys), np.int32)
            all_numbers[inside == 1], all_numbers[inside == 0] = numbers, table.find(keys[inside == 0])
            last, state = _grown(last, table.count, -1), _grown(state, table.count, UNRECORDED)
            duplicates, rows = _place_records(all_numbers, inside, last, state, rows)
            papers["duplicate id"] += duplicates
            papers["outside the subset"] += int((all_numbers < 0).sum())
    papers["outside the subset"] += int((state == OUTSIDE).sum())
    of_record = np.concatenate([np.empty(0, np.int32), *of_record])
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
                for place, keys in enumerate(_pieces(shard / f"{name}.u64", np.uint64)):
                    others, these = mapped(keys), here[place * KEYS_AT_A_TIME :][: len(keys)]
                    dropped["listed by an earlier record of a duplicate id"] += int((these < 0).sum())
                    _write_edges(file, *((others, these) if mirrored else (these, others)), mirrored, these >= 0, dropped)
            for citing, cited in zip(_pieces(shard / "citing.u64", np.uint64), _pieces(shard / "cited.u64", np.uint64), strict=True):
                _write_edges(file, mapped(citing), mapped(cited), 0, np.ones(len(citing), bool), dropped)
    if table.count > MOST_PAPERS:
        raise DumpError(f"{table.count:,} papers are more than an int32 can number; choose a subset.")
    ids.state, ids.place = _grown(state, table.count, UNRECORDED), _grown(last, table.count, -1).astype(np.int64)
    ids.renamed = np.broadcast_to(False, table.count)
    if joins:
        papers["duplicate id"] += _join_other_ids(ids, table, shards, edges)
    _mark_outside(shards, table, ids.state)
    _find_names(ids, table, shards)
    if joins and not keep_unrecorded:
        ids.state[ids.state == UNRECORDED] = OUTSIDE
    return ids


def _pieces(path: Path, dtype) -> Iterator[np.ndarray]:
    """The values of a file, KEYS_AT_A_TIME; nothing where there is no file."""
    if path.exists():
        with open(path, "rb") as file:
            while len(values := np.fromfile(file, dtype, KEYS_AT_A_TIME)):
                yield values


def _grown(values: np.ndarray, size: int, filling) -> np.ndarray:
    return np.concatenate([values, np.full(size - len(values), filling, values.dtype)]) if size > len(values) else values


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


def _join_other_ids(ids: Ids, table: KeyTable, shards: list[Path], edges: Path) -> int:
    """Make one paper of those that a table of other ids calls one, under the dump's own id, whose record wins; returns records that lose.

    Only ids of papers that records or citations name matter: memory follows the papers, not the table.
    """
    pairs = [np.empty((2, 0), np.int32)]
    for shard in shards:
        for others, own in zip(_pieces(shard / "other_ids.u64", np.uint64), _pieces(shard / "paper_ids.u64", np.uint64), strict=True):
            known = (table.find(others) >= 0) | (table.find(own) >= 0)
            pairs.append(np.stack([table.add(others[known]), table.add(own[known])]))
    here, there = np.concatenate(pairs, axis=1)
    ids.state, ids.place = _grown(ids.state, table.count, UNRECORDED), _grown(ids.place, table.count, -1)
    ids.renamed, root = np.zeros(table.count, bool), np.arange(table.count, dtype=np.int32)
    root[here] = there
    root = root[root]
    _mark_outside(shards, table, ids.state)
    moved = np.flatnonzero(root != np.arange(len(root)))
    lone = moved[(ids.state[moved] == INSIDE) & (ids.state[root[moved]] == UNRECORDED)]
    lone = lone[np.unique(root[lone], return_index=True)[1]]  # of two other ids of one paper, one record
    lost = int((ids.state[moved] == INSIDE).sum()) - len(lone)
    ids.place[root[lone]], ids.state[root[lone]], ids.renamed[root[lone]] = ids.place[lone], INSIDE, True
    outside = root[moved[ids.state[moved] == OUTSIDE]]
    ids.state[outside[ids.state[outside] == UNRECORDED]] = OUTSIDE
    ids.state[moved] = UNRECORDED
    if edges.stat().st_size:
        mapped = np.memmap(edges, np.uint32, "r+").reshape(-1, 2)
        for some in np.split(mapped, range(KEYS_AT_A_TIME, len(mapped), KEYS_AT_A_TIME)):
            some[:, 0], some[:, 1] = root[some[:, 0]], 2 * root[some[:, 1] >> 1].astype(np.uint32) + (some[:, 1] & 1)
    return lost


def _mark_outside(shards: list[Path], table: KeyTable, state: np.ndarray) -> None:
    """What only citations name, but has a record outside the subset, is outside too."""
    for shard in shards:
        for keys, inside in zip(_pieces(shard / "records.u64", np.uint64), _pieces(shard / "inside.u8", np.uint8), strict=True):
            if not inside.all():
                found = table.find(keys[inside == 0])
                found = found[found >= 0]
                state[found[state[found] == UNRECORDED]] = OUTSIDE


def _find_names(ids: Ids, table: KeyTable, shards: list[Path]) -> None:
    """Where the id of each unrecorded paper is to be found: its name's row, or its key; DumpError where two ids share a key."""
    ids.key, checks = np.empty(table.count, np.uint64), np.zeros(table.count, np.uint32)
    slots, numbers = table.contents()
    ids.key[numbers] = slots
    row = 0
    for shard in shards:
        for keys, of_piece in zip(_pieces(shard / "records.u64", np.uint64), _pieces(shard / "checks.u32", np.uint32), strict=True):
            if len(differing := _differing(checks, table.find(keys), of_piece)):
                raise DumpError(same_key(f"The id of record {row + differing[0] + 1:,} (of all that have one)"))
            row += len(keys)
    row = 0
    for batch in ids.names:
        keys, of_batch = keys_of(batch["id"])
        numbers = table.find(keys)
        if len(differing := _differing(checks, numbers, of_batch)):
            raise DumpError(same_key(f"The id {batch['id'][int(differing[0])].as_py()!r}"))
        unrecorded = np.flatnonzero(numbers >= 0)
        unrecorded = unrecorded[ids.state[numbers[unrecorded]] == UNRECORDED]
        ids.place[numbers[unrecorded]] = row + unrecorded
        row += batch.num_rows


def _differing(checks: np.ndarray, numbers: np.ndarray, of_these: np.ndarray) -> np.ndarray:
    """Note the checks of some papers (-1 is none); returns the places of those that differ from an earlier one."""
    known = np.flatnonzero(numbers >= 0)
    numbers, of_these = numbers[known], of_these[known]
    new = checks[numbers] == 0
    checks[numbers[new]] = of_these[new]
    return known[checks[numbers] != of_these]
