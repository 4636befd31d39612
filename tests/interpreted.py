"""What Triton's interpreter runs on a CPU: every kernel against torch. test_gpu_kernels.py starts it, told before Triton is imported.

The interpreter runs programs one after the other: it shows that the arithmetic is right, never that there are no races.
"""

import mmap
import threading

import numpy as np
import pytest
import torch

from helpers.rows import tables, transfer
from helpers.rows.files import aligned_empty
from helpers.rows.transfer import PinnedRows, as_words, move_rows
from tests.test_tables import engine_of, train


def rows_of(N, D, dtype):
    values = torch.randn(N, D, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows = torch.from_numpy(aligned_empty((N, D * dtype.itemsize), np.uint8)).view(dtype)
    assert rows.data_ptr() % mmap.PAGESIZE == 0
    return rows.copy_(values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("N", "D", "count"), [(1, 1, 1), (7, 3, 5), (40, 188, 33), (9, 128, 9), (5, 1500, 4), (300, 1, 257)])
def test_rows_move_as_by_indexing(N, D, count, dtype):
    rows = PinnedRows(rows_of(N, D, dtype), direct=True)
    assert rows.direct
    ids = torch.randint(0, N, (count,), generator=torch.Generator().manual_seed(1))
    expected = rows.rows[ids]
    assert torch.equal(rows.gather(ids, torch.zeros(count, D, dtype=dtype)), expected), "duplicates may be asked for"
    different = torch.randperm(N, generator=torch.Generator().manual_seed(2))[:count]
    after, new = rows.rows.clone(), torch.randn(len(different), D).to(dtype)
    after[different] = new
    rows.scatter(different, new)
    assert torch.equal(rows.rows, after), "rows of other ids stay"


def test_state_of_a_value_a_row_moves_too():
    sums = torch.from_numpy(aligned_empty((50,), np.float32)).copy_(torch.rand(50))
    ids = torch.tensor([49, 0, 7])
    assert torch.equal(PinnedRows(sums, direct=True).gather(ids, torch.empty(3)), sums[ids])


def test_offsets_are_of_64_bits(tmp_path):
    """A table of more than 2**31 words, in a file that is nearly all hole: its last rows."""
    N, D = (1 << 31) // 512 + 1000, 512
    with open(tmp_path / "table", "wb") as file:
        file.truncate(N * D * 4)
    stored = np.memmap(tmp_path / "table", np.float32, "r+", shape=(N, D))
    rows, ids = torch.from_numpy(stored), torch.tensor([N - 1, (1 << 31) // D, 0])
    held = torch.arange(3.0)[:, None].expand(3, D).contiguous() + 1
    move_rows(rows, ids, held, back=True)
    assert [stored[i, 5] for i in ids.tolist()] == [1, 2, 3] and not stored[N - 2].any()
    assert torch.equal(move_rows(rows, ids, again := torch.zeros(3, D)) or again, held)


def test_rows_that_do_not_begin_at_a_page_are_not_locked():
    assert not PinnedRows(rows_of(9, 4, torch.float32)[1:], direct=True).direct


@pytest.mark.parametrize("D", [1, 7, 188])
@pytest.mark.parametrize("optimizer", ["sgd", "rowwise_adagrad"])
def test_the_update_is_that_of_torch(optimizer, D):
    generator = torch.Generator().manual_seed(3)
    rows, gradient = torch.randn(11, D, generator=generator), torch.randn(11, D, generator=generator)
    state = {name: values.add_(0.5) for name, values in tables.new_state(optimizer, 11, D).items()}
    expected, of_expected = rows.clone(), {name: values.clone() for name, values in state.items()}
    tables.update(optimizer, expected, gradient, of_expected, 0.1)
    tables._train_fused(rows, gradient, state.get("sums"), 0.1, 5)
    assert torch.allclose(rows, expected, atol=1e-6) and not torch.allclose(rows, rows + 0.01 * gradient)
    for name, values in state.items():
        assert torch.allclose(values, of_expected[name], rtol=1e-6)


def test_the_update_rounds_stochastically():
    """Steps of an eighth of bfloat16's own come through on average; what needs no rounding stays; another seed rounds otherwise."""
    gradient = torch.full((40, 256), -(2.0**-10))
    ends = []
    for seed in (1, 1, 2):
        rows = torch.ones(40, 256).bfloat16()
        tables._train_fused(rows, gradient, None, 1.0, seed)
        ends.append(rows.float())
    assert set(ends[0].unique().tolist()) == {1, 1 + 2**-7}
    assert abs(ends[0].mean() - 1 - 2**-10) < 1e-4
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])
    rows = torch.tensor([[1.5, -2.0, 0.0]]).bfloat16()
    tables._train_fused(rows, torch.tensor([[0.5, 0.0, 0.0]]), None, 1.0, 0)
    assert rows.tolist() == [[1.0, -2.0, 0.0]]


@pytest.mark.parametrize("ahead", [False, True])
def test_a_run_whose_rows_are_moved_by_kernels_is_the_same(ahead, monkeypatch):
    move, one_by_one = transfer.move_rows, threading.Lock()

    def in_turn(*arguments, **how):  # the interpreter knows no threads
        with one_by_one:
            move(*arguments, **how)

    monkeypatch.setattr(transfer, "move_rows", in_turn)
    engine, judge = engine_of(hot=30, direct=True, ahead=ahead), engine_of()
    assert all(rows.direct for rows in engine.tables[0]._at_home.values())
    for ours, expected in zip(train(engine, epochs=1), train(judge, epochs=1), strict=True):
        assert torch.equal(ours, expected)


def test_a_run_with_the_fused_update_is_the_same(monkeypatch):
    judge = train(engine_of(), epochs=1)
    monkeypatch.setattr(tables, "kernels_work", lambda device: True)
    for ours, expected in zip(train(engine_of(), epochs=1), judge, strict=True):
        assert torch.allclose(ours, expected, atol=1e-5)


def test_words():
    assert as_words(torch.empty(2, 3, dtype=torch.bfloat16)).dtype == torch.int16
    assert as_words(torch.empty(2, 4, dtype=torch.bfloat16)).shape == (2, 2)
    assert transfer.TILE % 1024 == 0
