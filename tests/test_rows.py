"""The model's loss, the warm start, smoothing, and rows in files."""

import ctypes
import mmap
import os
import time

import numpy as np
import pytest
import torch

from helpers.artefacts import sha256
from helpers.errors import ArtefactError
from helpers.models import smoothing
from helpers.models.sgns import sgns_loss
from helpers.models.smoothing import WARM_STARTS, choose_warm_start, fill_start, smooth, smooth_trained, weigh
from helpers.prefetch import only_what_is_asked, read_ahead
from helpers.rows import files
from helpers.rows.files import Float32Rows, rounded, to_float32
from tests.conftest import random_pairs


def test_the_loss_of_one_pair_by_hand():
    loss = sgns_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]]), torch.tensor([[[0.5, 0.5], [-1.0, 0.0]]]))
    s = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    assert loss.item() == pytest.approx(-np.log(s(1.0)) - np.log(s(-1.5)) - np.log(s(1.0)), rel=1e-6)


def test_the_loss_is_summed_over_pairs():
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(shape, generator=generator) for shape in ((6, 4), (6, 4), (6, 3, 4))]
    one_by_one = sum(sgns_loss(*(tensor[i : i + 1] for tensor in rows)) for i in range(6))
    assert sgns_loss(*rows).item() == pytest.approx(one_by_one.item(), rel=1e-6)


def test_the_gradient_equals_finite_differences():
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in ((3, 5), (3, 5), (3, 2, 5))]
    assert torch.autograd.gradcheck(sgns_loss, rows)


def smooth_plainly(indptr, contexts, rows, weights):
    """The definition of `smooth` in a few dense lines of numpy."""
    unit = lambda rows: rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)  # noqa: E731
    context_weights = weigh(np.maximum(np.diff(indptr), 1))[:, None]
    rows = unit(rows.astype(np.float64))
    total = weights[0] * rows
    for weight in weights[1:]:
        weighted = rows * context_weights
        rows = unit(np.array([weighted[contexts[indptr[t] : indptr[t + 1]]].sum(axis=0) for t in range(len(rows))]))
        total = total + weight * rows
    return unit(total)


@pytest.mark.parametrize("D", [1, 5, 64, 90])
@pytest.mark.parametrize("N", [1, 2, 50])
def test_smoothing_equals_its_definition(N, D):
    generator = np.random.default_rng(0)
    indptr, contexts = random_pairs(generator, N, 3 * N)
    for dtype, tolerance in ((np.float32, 1e-5), (np.uint16, 0.03)):
        rows = rounded(generator.standard_normal((N, D), dtype=np.float32), np.dtype(dtype))
        expected = 3 * smooth_plainly(indptr, contexts, to_float32(rows), (0.5, 1, 0, 2))
        table = np.zeros((N, D + 7), dtype)
        got = smooth(indptr, contexts, rows.copy(), (0.5, 1, 0, 2), table[:, 3 : D + 3], length=3)
        assert np.allclose(to_float32(np.ascontiguousarray(got)), expected, atol=tolerance)
        assert not table[:, :3].any() and not table[:, D + 3 :].any(), "columns beside it are left alone"


def filled(warm_start, dtype=np.float32, D=40, scale=1.0):
    """(indptr, target, context) of a small random graph."""
    indptr, contexts = random_pairs(np.random.default_rng(0), 40, 100)
    tables = [np.empty((40, D), dtype) for _ in range(2)]
    fill_start(indptr, contexts, *tables, warm_start, scale, np.random.default_rng(1))
    return indptr, *(to_float32(table) for table in tables)


def test_start_tables():
    indptr, target, context = filled((1.0, 2.0), scale=3.0)
    assert np.array_equal(target, context)
    assert np.allclose(np.linalg.norm(target[np.diff(indptr) > 0], axis=1), 3, atol=1e-5)
    _, cold, zero = filled(())
    assert np.abs(cold).max() <= 0.5 / 40 and cold.any() and not zero.any()
    assert np.allclose(filled((1.0, 2.0), np.uint16, scale=3.0)[1], target, atol=0.05)


@pytest.mark.parametrize(("N", "steps"), [(1, 3), (49_904, 3), (172_122, 4), (200_000, 4), (2_150_127, 5), (14_886_544, 5)])
def test_the_number_of_smoothing_steps_follows_the_number_of_papers(N, steps):
    weights = choose_warm_start(N)
    assert len(weights) == steps and weights == WARM_STARTS[steps]


def test_columns_are_smoothed_in_blocks_of_bounded_size(monkeypatch):
    """Each block as a table of its own, its rows as long as its share of the columns."""
    assert files.pieces(128, 32) == [slice(first, first + 32) for first in range(0, 128, 32)]
    assert files.pieces(188, 16)[-1] == slice(176, 188) and files.pieces(188, 64)[-1] == slice(128, 188)
    monkeypatch.setattr(smoothing, "START_COLUMNS", 16)
    indptr, target, _ = filled((1.0, 2.0))
    for columns, width in ((slice(0, 16), 16), (slice(16, 32), 16), (slice(32, 40), 8)):
        assert np.allclose(np.linalg.norm(target[np.diff(indptr) > 0, columns], axis=1), np.sqrt(width / 40), atol=1e-5)


def far_plainly(indptr, contexts, rows, reach):
    """The definition of `smooth_trained` for one block of columns: topics beside what all share, both of length degree ** .15."""
    degree, D = np.diff(indptr), rows.shape[1]
    rows = rows - rows.mean(axis=1, keepdims=True)
    rows[degree > 0] -= rows[degree > 0].mean(axis=0)
    rows = smooth_plainly(indptr, contexts, rows, (1,) * (reach + 1))
    rows[degree > 0] -= rows[degree > 0].mean(axis=0)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return (rows + (degree[:, None] > 0) / np.sqrt(D)) * np.maximum(degree, 1)[:, None] ** 0.15


def test_reach_smooths_trained_rows_without_what_they_share():
    indptr, contexts = random_pairs(np.random.default_rng(0), 40, 100)
    paired = np.diff(indptr) > 0
    assert not paired.all()
    rows = np.random.default_rng(1).standard_normal((40, 20), dtype=np.float32) + 1
    rows[~paired] = 0
    got = np.concatenate([block for _, block in smooth_trained(indptr, contexts, rows, 3)], axis=1)
    assert got.dtype == np.float32 and np.allclose(got, far_plainly(indptr, contexts, rows, 3), atol=1e-5) and not got[~paired].any()
    stored = Float32Rows(rounded(rows, np.dtype(np.uint16)))
    assert np.allclose(np.concatenate([block for _, block in smooth_trained(indptr, contexts, stored, 3)], axis=1), got, atol=0.03)


def test_the_dot_product_of_far_rows_is_of_topic_and_degree():
    """In blocks of columns: (d e) ** .15 x (1 + what the topics have in common), for papers of degrees d and e."""
    indptr, contexts = random_pairs(np.random.default_rng(0), 40, 100)
    rows, degree = np.random.default_rng(1).standard_normal((40, 150), dtype=np.float32), np.diff(indptr)
    found = dict((columns.start, block) for columns, block in smooth_trained(indptr, contexts, rows, 3))
    assert len(found) > 1
    far = np.concatenate(list(found.values()), axis=1)
    topics = [far_plainly(indptr, contexts, rows[:, start : start + block.shape[1]], 3) for start, block in found.items()]
    topics = [(rows - rows.mean(axis=1, keepdims=True)) * np.sqrt(rows.shape[1] / 150) for rows in topics]
    in_common = sum(rows @ rows.T for rows in topics)
    assert np.allclose(far @ far.T, np.outer(degree, degree) ** 0.15 + in_common, atol=1e-4)


@pytest.mark.parametrize("shape", [(10, 3), (10,), (1, 5), (0, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_rows_in_files_read_as_one_array(tmp_path, monkeypatch, shape, dtype):
    monkeypatch.setattr(files, "SHARD_BYTES", 40)
    stored = np.random.default_rng(0).integers(0, 1000, shape).astype(dtype)
    files.write_rows(tmp_path, "target", stored)
    found = files.RowFiles(tmp_path, "target")
    assert found.shape == stored.shape and found.dtype == stored.dtype and len(found) == len(stored)
    assert len(found.paths) == max(1, -(-len(stored) // max(1, 40 // max(1, stored[:1].nbytes))))
    for rows in (slice(None), slice(2, 7), slice(7, 2), slice(-3, None), np.array([9, 0, 3, 3])[: len(stored)] % max(len(stored), 1), []):
        assert np.array_equal(found[rows], stored[np.asarray(rows, int) if isinstance(rows, list) else rows])
        if len(shape) == 2:
            assert np.array_equal(found[rows, 1:3], stored[np.asarray(rows, int) if isinstance(rows, list) else rows, 1:3])
    if len(stored) > 1:
        grid = np.array([[0, 9], [5, 5]])
        assert np.array_equal(found[grid], stored[grid]) and np.array_equal(found[3], stored[3])
    again = np.empty_like(stored)
    found.read_into(again, {path.name: sha256(path) for path in found.paths})
    assert np.array_equal(again, stored)
    with pytest.raises(ArtefactError, match="is not as its manifest says"):
        found.read_into(again, {path.name: "0" for path in found.paths})
    with pytest.raises(ArtefactError, match="holds no whole table context"):
        files.RowFiles(tmp_path, "context")


def in_memory(table: np.ndarray) -> np.ndarray:
    """Whether each page of a memory-mapped table is in memory, bool (pages,), from the page of its first value on."""
    start = table.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
    pages = (ctypes.c_ubyte * -(-(table.ctypes.data + table.nbytes - start) // mmap.PAGESIZE))()
    assert ctypes.CDLL(None).mincore(ctypes.c_void_p(start), ctypes.c_size_t(len(pages) * mmap.PAGESIZE), pages) == 0
    return np.frombuffer(pages, np.uint8) & 1 > 0


def test_rows_that_are_expected_are_read_from_the_disk_and_no_others(tmp_path):
    table = np.random.default_rng(0).integers(0, 1000, (100_000, 50)).astype(np.uint16)
    np.save(tmp_path / "table.npy", table)
    with open(tmp_path / "table.npy", "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    mapped = np.load(tmp_path / "table.npy", mmap_mode="r")
    if in_memory(mapped).mean() > 0.5:
        pytest.skip("files in this folder are always in memory")
    rows = np.array([3, 4, 5, 7, 60_000, 99_999])
    only_what_is_asked(mapped)
    read_ahead(mapped, rows)
    read_ahead(mapped, rows[:0])
    read_ahead(mapped, slice(50_000, 50_100))
    read_ahead(mapped, slice(20, 20))
    rows = np.append(rows, np.arange(50_000, 50_100))
    wanted = np.unique([(128 + row * 100 + byte) // mmap.PAGESIZE for row in rows.tolist() for byte in (0, 99)])
    until = time.monotonic() + 120
    while not in_memory(mapped)[wanted].all() and time.monotonic() < until:
        time.sleep(0.01)
    there = in_memory(mapped)
    assert there[wanted].all() and there.sum() < 120 < len(there)
    assert np.array_equal(mapped[rows], table[rows])
    before, _ = in_memory(mapped).sum(), mapped[80_000].sum()
    assert in_memory(mapped).sum() <= before + 2, "what is read without being asked for comes alone"
    read_ahead(table, rows)  # of a table in memory: nothing happens


def test_rows_of_files_are_read_ahead_part_by_part(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SHARD_BYTES", 4000)
    stored = np.arange(10_000, dtype=np.uint16).reshape(1000, 10)
    files.write_rows(tmp_path, "target", stored)
    asked = []
    monkeypatch.setattr(files, "read_ahead", lambda part, rows: asked.append((len(part), rows.tolist())) or part)
    found = Float32Rows(files.RowFiles(tmp_path, "target"))[np.array([999, 0, 200, 199, 0])]
    assert asked == [(200, [0, 199]), (200, [0]), (200, []), (200, []), (200, [199])]
    assert np.array_equal(found, to_float32(stored[[999, 0, 200, 199, 0]]))


def test_rows_of_a_mapped_table_are_read_ahead_where_they_are_to_be(monkeypatch):
    stored, ids, asked = np.arange(10_000, dtype=np.uint16).reshape(1000, 10), np.array([[999, 0], [200, 0]]), []
    monkeypatch.setattr(files, "read_ahead", lambda table, rows: asked.append(rows.tolist()))
    expected = to_float32(stored[ids])
    assert np.array_equal(Float32Rows(stored)[ids], expected) and not asked
    assert np.array_equal(Float32Rows(stored, ahead=True)[ids], expected) and asked == [[0, 200, 999]]
    assert np.array_equal(Float32Rows(stored, ahead=True)[3:5], to_float32(stored[3:5])) and len(asked) == 1
