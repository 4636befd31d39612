"""Keys -> papers -> CSR: the papers of some shards get numbers, and citations, pairs of these, become rows in the papers' final order."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.dataset import dataset

from helpers.artefacts import new_array, open_npy, values_of
from helpers.corpus.keys import KeyTable, ids_of, keys_of
from helpers.corpus.records import KEPT, OTHER_ENDS
from helpers.corpus.shards import batches_of
from helpers.errors import DumpError

UNRECORDED, OUTSIDE, INSIDE = 0, 1, 2  # states of a paper: only named by citations; with a record outside the subset; with one in it
EDGE, MIRRORED = np.dtype((np.uint32, 2)), 1  # citing, 2 x cited + MIRRORED where the cited paper lists it
EDGES_AT_A_TIME, PAPERS_AT_A_TIME = 1 << 17, 1 << 13


class _Ids(SimpleNamespace):
    # the papers of some shards, numbered in order of appearance: records first, then what only citations name
    # state: uint8 (n,), INSIDE, OUTSIDE the subset, or UNRECORDED; place: int64 (n,), the row of a record among all, or of a name;
    # renamed: bool (n,), a record known by another id only; key: uint64 (n,); kept, names: all of KEPT, and of names

    def papers(self, some: np.ndarray) -> pa.Table:
        # KEPT of some papers, int (n,): a record's values, or nothing but its id
        place, recorded = self.place[some], self.state[some] == INSIDE
        named = (self.state[some] == UNRECORDED) & (place >= 0)
        ids = pc.replace_with_mask(ids_of(self.key[some]), pa.array(named), self.names.take(pa.array(place[named]))["id"].combine_chunks())
        records = self.kept.take(pa.array(place[recorded])).take(pa.array(np.cumsum(recorded) - 1, mask=~recorded))
        own = pc.coalesce(pc.if_else(pa.array(recorded & ~self.renamed[some]), records["paper_id"], ids), records["paper_id"])
        return records.set_column(0, KEPT.field(0), own)


def number_papers(shards: list[Path], keep_unrecorded: bool, edges: Path, report) -> _Ids:
    """Number the papers and write their citations to the file `edges`: uint32 pairs (citing, 2 x cited + MIRRORED); DumpError."""
    # What only citations name is numbered too, where keep_unrecorded; else its citations are dropped, and counted in the report, as are
    # those of records that a later record of the same id replaces.
    ids = _Ids(kept=dataset([batch.select(KEPT.names) for batch in batches_of(shards, "papers")], KEPT))
    ids.names = dataset(list(batches_of(shards, "names")), pa.schema({"id": pa.string()}))
    papers, of_record, records = report.dropped["papers"], [np.empty(0, np.int32)], ids.kept.count_rows()
    table, state = KeyTable(records), np.zeros(records, np.uint8)
    for keys, _, inside in _columns(shards, "records"):
        of_record.append(table.find(keys[inside], add=True))
        known = (numbers := table.find(keys)) >= 0
        state[numbers[known]] = np.where(inside[known], INSIDE, OUTSIDE)  # numpy keeps the last of several values, here and below
        papers["duplicate id"] += int(known.sum())
        papers["outside the subset"] += int((~known).sum())
    papers["duplicate id"] -= np.count_nonzero(state)
    papers["outside the subset"] += int((state == OUTSIDE).sum())
    of_record, last = np.concatenate(of_record), np.empty(table.count, np.int32)  # of each paper the last record
    last[of_record] = np.arange(records)
    of_record[last[of_record] != np.arange(records)] = -1
    joins = any((shard / "other_ids.arrow").exists() for shard in shards)
    with open(edges, "wb") as file:
        _write_citations(file, shards, of_record, partial(table.find, add=keep_unrecorded or joins), report.dropped["citations"])
    pairs = [np.empty((2, 0), np.int32)]
    for others, own in _columns(shards, "other_ids"):
        known = (table.find(others) >= 0) | (table.find(own) >= 0)  # memory follows the papers that are named, not the table
        pairs.append(np.stack([table.find(others[known], add=True), table.find(own[known], add=True)]))
    new = (0, table.count - len(last))
    ids.state, ids.place = np.pad(state[: len(last)], new), np.pad(last.astype(np.int64), new, constant_values=-1)
    ids.renamed = np.broadcast_to(False, table.count)
    _find_names(ids, table, shards)
    if joins:
        papers["duplicate id"] += _join_other_ids(ids, np.concatenate(pairs, axis=1), edges)
    if joins and not keep_unrecorded:
        ids.state[ids.state == UNRECORDED] = OUTSIDE
    return ids


def _columns(shards: list[Path], name: str) -> Iterator[list[np.ndarray]]:
    for batch in batches_of(shards, name, mapped=False):
        yield [column.to_numpy(zero_copy_only=False) for column in batch.columns]


def _write_citations(file, shards: list[Path], of_record: np.ndarray, number, dropped) -> None:
    # Write all edges; of_record: each record's paper, int32 (R,), -1 where a later one replaces it; number: keys -> papers, -1 unknown

    def write(citing: np.ndarray, cited: np.ndarray, mirrored: int) -> None:
        known = (citing >= 0) & (cited >= 0)
        dropped["dangling"] += int((~known).sum())
        file.write(np.stack([citing[known].astype(np.uint32), 2 * cited[known].astype(np.uint32) + np.uint32(mirrored)], axis=1))

    first = 0
    for shard in shards:
        for batch in batches_of([shard], "papers"):
            for name, mirrored in zip(OTHER_ENDS, (0, MIRRORED), strict=True):
                own = np.repeat(of_record[first : first + len(batch)], np.diff(batch[name].offsets))
                dropped["listed by an earlier record of a duplicate id"] += int((own < 0).sum())
                ends = own[own >= 0], number(batch[name].values.to_numpy()[own >= 0])
                write(*(ends[::-1] if mirrored else ends), mirrored)
            first += len(batch)
        for citing, cited in _columns([shard], "citations"):
            write(number(citing), number(cited), 0)


def _join_other_ids(ids: _Ids, pairs: np.ndarray, edges: Path) -> int:
    # Make one paper of those that a table of other ids calls one, under the dump's own id, whose record wins; returns how many lose
    ids.renamed, root = np.zeros(len(ids.state), bool), np.arange(len(ids.state), dtype=np.int32)
    root[pairs[0]] = pairs[1]
    root = root[root]
    moved = np.flatnonzero(root != np.arange(len(root)))
    lone = moved[(ids.state[moved] == INSIDE) & (ids.state[root[moved]] == UNRECORDED)]
    lone = lone[np.unique(root[lone], return_index=True)[1]]  # of two other ids of one paper, one record
    lost = int((ids.state[moved] == INSIDE).sum()) - len(lone)
    ids.place[root[lone]], ids.state[root[lone]], ids.renamed[root[lone]] = ids.place[lone], INSIDE, True
    np.maximum.at(ids.state, root[moved[ids.state[moved] == OUTSIDE]], OUTSIDE)
    ids.state[moved] = UNRECORDED
    if edges.stat().st_size:
        mapped = np.memmap(edges, np.uint32, "r+").reshape(-1, 2)
        for some in np.split(mapped, range(EDGES_AT_A_TIME, len(mapped), EDGES_AT_A_TIME)):
            some[:, 0], some[:, 1] = root[some[:, 0]], 2 * root[some[:, 1] >> 1].astype(np.uint32) + (some[:, 1] & 1)
    return lost


def _find_names(ids: _Ids, table: KeyTable, shards: list[Path]) -> None:
    # where the id of each unrecorded paper is to be found: its name's row, or its key; DumpError where two ids share a key
    # what only citations name, but has a record outside the subset, is outside too
    ids.key, checks, row = table.keys(), np.zeros(table.count, np.uint32), 0

    def numbers_of(keys: np.ndarray, checks_of: np.ndarray, names) -> np.ndarray:
        numbers = table.find(keys)
        known = np.flatnonzero(numbers >= 0)
        new = known[checks[numbers[known]] == 0]
        checks[numbers[new]] = checks_of[new]
        if len(differing := known[checks[numbers[known]] != checks_of[known]]):
            name = f"The id (of a record, its key) {names[int(differing[0])]} and another one share a 64-bit key"
            raise DumpError(f"{name} (one chance in a thousand at 200 million ids); rename it in the dump.")
        return numbers

    for keys, checks_of, inside in _columns(shards, "records"):
        outside = numbers_of(keys, checks_of, keys)[~inside]
        np.maximum.at(ids.state, outside[outside >= 0], OUTSIDE)
    for batch in batches_of(shards, "names"):
        numbers = numbers_of(*keys_of(batch["id"]), batch["id"])
        unrecorded = np.flatnonzero(numbers >= 0)
        unrecorded = unrecorded[ids.state[numbers[unrecorded]] == UNRECORDED]
        ids.place[numbers[unrecorded]] = row + unrecorded
        row += batch.num_rows


@numba.njit(cache=True, nogil=True)
def _place(edges, places, cited_of):
    # Write the second half of each edge to its citing paper's place, which moves on
    for i in range(len(edges)):
        cited_of[places[edges[i, 0]]] = edges[i, 1]
        places[edges[i, 0]] += 1


def by_citing(edges: Path, cited_file: Path, state: np.ndarray, dropped: Counter) -> tuple[np.ndarray, np.ndarray]:
    """(indptr int64 (n+1,), cited uint32 (E,), mapped from cited_file) of the pairs in `edges`, each once, ascending; state: uint8 (n,)."""
    counts, kept = np.zeros(len(state), np.int64), 0
    for some in values_of(edges, EDGE, EDGES_AT_A_TIME):
        np.add.at(counts, some[:, 0], 1)
    indptr = np.append(0, np.cumsum(counts))
    cited_of, places = new_array(cited_file, np.uint32, (int(indptr[-1]),)), indptr[:-1].copy()
    for some in values_of(edges, EDGE, EDGES_AT_A_TIME):
        _place(some, places, cited_of)
    for papers in row_ranges(indptr, EDGES_AT_A_TIME):  # what stays closes up, in place
        row, places = entries(indptr, np.arange(papers.start, papers.stop))
        citing, ends = papers.start + row, cited_of[places]
        outside, itself = (state[citing] == OUTSIDE) | (state[ends >> 1] == OUTSIDE), citing == ends >> 1
        pairs = np.sort((citing << 32 | ends)[~(outside | itself)])
        double = np.diff(pairs >> 1, prepend=-1) == 0
        mirrored = np.count_nonzero(pairs[double] & MIRRORED)
        dropped["outside the subset"] += np.count_nonzero(outside)
        dropped["self citation"] += np.count_nonzero(itself & ~outside)
        dropped["also listed by the cited paper"] += mirrored  # no loss: S2 lists every citation at both its ends
        dropped["duplicate citation"] += np.count_nonzero(double) - mirrored
        pairs = pairs[~double]
        counts[papers] = np.bincount((pairs >> 32) - papers.start, minlength=papers.stop - papers.start)
        cited_of[kept : kept + len(pairs)] = (pairs & 0xFFFFFFFF) >> 1
        kept += len(pairs)
    return np.append(0, np.cumsum(counts)), cited_of[:kept]


@numba.njit(cache=True, nogil=True)
def _degrees(indptr, cited_of, chosen):
    # how many citations each paper has with others, both of them in `chosen`, int32 (n,)
    degree = np.zeros(len(indptr) - 1, np.int32)
    for citing in range(len(indptr) - 1):
        for p in range(indptr[citing], indptr[citing + 1]):
            if chosen[citing] and chosen[cited_of[p]]:
                degree[citing] += 1
                degree[cited_of[p]] += 1
    return degree


def choose(indptr: np.ndarray, cited_of: np.ndarray, state: np.ndarray, min_degree: int, report) -> tuple[np.ndarray, np.ndarray]:
    """(order: papers of at least min_degree citations in descending degree, int64 (N,); degree int32 (n,) among those)."""
    usable = state != OUTSIDE
    degree = _degrees(indptr, cited_of, usable)
    chosen = usable & ((state == INSIDE) | (degree > 0)) & (degree >= min_degree)
    report.dropped["papers"]["too few citations"] += int((usable & (state == INSIDE) & ~chosen).sum())
    if min_degree:
        degree = _degrees(indptr, cited_of, chosen)
    order = np.flatnonzero(chosen)
    return order[np.argsort(-degree[order], kind="stable")], degree  # ties in order of appearance: the same dump gives the same ids


def renumber(indptr: np.ndarray, cited_of: np.ndarray, order: np.ndarray, E: int, folder: Path) -> None:
    """Write `citations_indptr.npy`, `citations.npy` of the E citations among the papers in `order`."""
    new_id = np.full(len(indptr) - 1, -1, np.int32)
    new_id[order] = np.arange(len(order), dtype=np.int32)
    counts = [np.zeros(1, np.int64)]
    with open_npy(folder / "citations.npy", np.int32, E) as file:
        for some in np.split(order, range(PAPERS_AT_A_TIME, len(order), PAPERS_AT_A_TIME)):
            row, places = entries(indptr, some)
            cited = new_id[cited_of[places]]
            pairs = np.sort((row << 32 | cited)[cited >= 0])
            counts.append(np.bincount(pairs >> 32, minlength=len(some)))
            file.write(pairs.astype(np.int32))  # the lower half
    np.save(folder / "citations_indptr.npy", np.cumsum(np.concatenate(counts)))


def row_ranges(indptr: np.ndarray, most: int) -> Iterator[slice]:
    """The rows of a CSR, cut into runs of at most `most` entries, or one row."""
    first, N = 0, len(indptr) - 1
    while first < N:
        last = max(first + 1, int(np.searchsorted(indptr, indptr[first] + most, side="right")) - 1)
        yield slice(first, last)
        first = last


def entries(indptr: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(which of the rows, place in the CSR), int64 (n,) each, of all entries of some rows, int (R,), of a CSR, row after row."""
    counts = indptr[rows + 1] - indptr[rows]
    starts = np.repeat(indptr[rows] - np.cumsum(counts) + counts, counts)
    return np.repeat(np.arange(len(rows)), counts), starts + np.arange(len(starts))
