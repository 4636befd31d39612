"""Several ids of one paper: what a dump's tables of other ids (S2's `paper-ids`) say, applied to numbered papers and their citations."""

import os
from pathlib import Path

import numba
import numpy as np

from helpers.corpus.citations import INSIDE, OUTSIDE, UNRECORDED
from helpers.corpus.keys import KeyTable, grown, pieces


def join_other_ids(ids, table: KeyTable, checks: np.ndarray, shards: list[Path], edges: Path, keep_unrecorded: bool, report) -> None:
    """Make one paper of those that the tables of other ids call one, under the dump's own id, whose record wins; rewrite the edges.

    Only ids that records or citations name matter here: memory follows the papers, not the tables.
    """
    root = np.arange(table.count, dtype=np.int32)
    absent, owners = KeyTable(), np.empty(0, np.int32)  # ids of papers without a record that nothing names: one outside the subset may
    for shard in shards:
        columns = (("other_ids.u64", np.uint64), ("other_checks.u32", np.uint32), ("paper_ids.u64", np.uint64))
        for others, of_others, own in zip(*(pieces(shard / name, dtype) for name, dtype in columns), strict=True):
            here, there = table.find(others), table.find(own)
            here[(checks[here] != of_others) & (checks[here] != 0)] = -1  # another id of the same key
            _point(here, there, root)
            owner = np.maximum(here, there)
            alone = ((here < 0) != (there < 0)) & (ids.state[owner] == UNRECORDED)
            numbers = absent.add(np.where(here < 0, others, own)[alone])
            owners = grown(owners, absent.count, 0)
            owners[numbers] = owner[alone]
    outside = np.zeros(absent.count, np.uint8)
    mark_outside(shards, absent, outside)
    ids.state[owners[outside == OUTSIDE]] = OUTSIDE
    report.dropped["papers"]["duplicate id"] += int(_move_records(root, ids.state, ids.place, ids.renamed))
    if edges.stat().st_size:
        mapped = np.memmap(edges, np.uint32, "r+").reshape(-1, 2)
        kept = _rename(mapped, root, ids.state, keep_unrecorded)
        report.dropped["citations"]["dangling"] += len(mapped) - kept
        del mapped
        os.truncate(edges, 8 * kept)


def mark_outside(shards: list[Path], table: KeyTable, state: np.ndarray) -> None:
    """What only citations name, but has a record outside the subset, is outside too."""
    for shard in shards:
        for keys, inside in zip(pieces(shard / "records.u64", np.uint64), pieces(shard / "inside.u8", np.uint8), strict=True):
            if not inside.all():
                found = table.find(keys[inside == 0])
                found = found[found >= 0]
                state[found[state[found] == UNRECORDED]] = OUTSIDE


@numba.njit(cache=True)
def _point(others, own, root):
    """Point each other id's paper, where both are known, to that of the dump's own id; no circles: only ever to the end of a path."""
    for i in range(len(others)):
        if others[i] >= 0 and own[i] >= 0:
            end = own[i]
            while root[end] != end:
                end = root[end]
            if end != others[i]:
                root[others[i]] = end


@numba.njit(cache=True)
def _move_records(root, state, place, renamed):
    """Let every paper point to the end of its path, and that have its record if it has none; returns the records that lose."""
    duplicates = 0
    for paper in range(len(root)):
        while root[root[paper]] != root[paper]:
            root[paper] = root[root[paper]]
        end = root[paper]
        if end == paper:
            continue
        if state[end] == UNRECORDED and state[paper] != UNRECORDED:
            state[end], place[end], renamed[end] = state[paper], place[paper], True
        else:
            duplicates += state[paper] == INSIDE
        state[paper] = UNRECORDED
    return duplicates


@numba.njit(cache=True)
def _rename(edges, root, state, keep_unrecorded):
    """Rewrite edges (E, 2) in place by the papers' roots, without those that end in no record unless these are kept; returns how many."""
    kept = 0
    for i in range(len(edges)):
        citing, cited = root[edges[i, 0]], root[edges[i, 1] >> 1]
        if keep_unrecorded or (state[citing] != UNRECORDED and state[cited] != UNRECORDED):
            edges[kept, 0], edges[kept, 1] = citing, 2 * cited + (edges[i, 1] & 1)
            kept += 1
    return kept
