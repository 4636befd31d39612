"""The CPU kernels against the plain model: each variant, several steps, duplicates included; rounding; laying out; bad input."""

import dataclasses
import errno
import os

import numpy as np
import pytest
import torch

from helpers.config import Config
from helpers.errors import ArtefactError
from helpers.models import kernels
from helpers.models.sgns import PlainSGNS
from helpers.pairs import noise
from helpers.rows.files import as_stored, as_tensor, round_stochastically, rounded, to_float32
from helpers.rows.tables import new_state, update
from helpers.training.engines import KernelEngine, new_tables

RATE = 0.05


def graph(N=40, P=900, seed=0, hub=3):
    """A random CSR by target (indptr int64 (N+1,), contexts int32 (P,)), a paper without pairs, a hub with P / hub, and its alias table."""
    generator = np.random.default_rng(seed)
    targets = np.sort(np.concatenate([np.zeros(P // hub, int), generator.integers(0, N - 1, P - P // hub)]))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(targets, minlength=N))])
    return indptr, generator.integers(0, N - 1, P).astype(np.int32), noise.alias_table(np.diff(indptr), 0.75)


def rows(N, D, seed):
    """Rows that bfloat16 holds exactly, float32 (N, D)."""
    return to_float32(rounded(np.random.default_rng(seed).normal(0, 0.5, (N, D)).astype(np.float32), np.dtype(np.uint16)))


def laid_out(indptr, contexts, table, K, targets=None):
    """(steps, step_targets, step_contexts, terms) of all targets in order."""
    targets = np.flatnonzero(np.diff(indptr)).astype(np.int32) if targets is None else targets
    room = kernels.room(len(contexts), K)
    return kernels.lay_out(targets, indptr, contexts, K, table, np.uint64(7), *room), *room


def judged(steps, K, target, context, optimizer):
    """The tables after the plain model, by autograd, has trained the same steps as batches."""
    plain = PlainSGNS(torch.from_numpy(target), torch.from_numpy(context))
    sums = [new_state("rowwise_adagrad", *target.shape)["sums"] for _ in range(2)]
    place = 0
    for t, positives in zip(steps[1][: steps[0]], steps[2][: steps[0]], strict=True):
        terms = torch.from_numpy(steps[3][place : place + positives * (1 + K)]).long()
        place += len(terms)
        plain.zero_grad()
        plain(torch.full((positives,), int(t)), terms[:positives], terms[positives:].view(-1, K)).backward()
        with torch.no_grad():
            for embedding, total in zip((plain.target, plain.context), sums, strict=True):
                touched = embedding.weight.grad.abs().sum(dim=1) > 0
                own, state = embedding.weight[touched], total[touched]
                if optimizer == "sgd":
                    own -= RATE * embedding.weight.grad[touched]
                else:
                    update("rowwise_adagrad", own, embedding.weight.grad[touched], {"sums": state}, RATE)
                embedding.weight[touched], total[touched] = own, state
    return plain.target.weight.detach().numpy(), plain.context.weight.detach().numpy(), *(total.numpy() for total in sums)


def trained(steps, K, target, context, optimizer, words=0):
    """The stored tables and sums after the kernel has trained these steps."""
    tables, adagrad = (target.copy(), context.copy()), optimizer == "rowwise_adagrad"
    sums = [np.full(len(target) if adagrad else 0, 1e-4, np.float32) for _ in range(2)]
    words = np.random.default_rng(words).integers(0, 1 << 16, kernels.NOISE_WORDS + target.shape[1], dtype=np.uint32)
    kernels.train_steps(*steps, K, *tables, *sums, adagrad, np.float32(RATE), words)
    return *tables, *sums


@pytest.mark.parametrize("optimizer", ["sgd", "rowwise_adagrad"])
@pytest.mark.parametrize(("D", "K"), [(1, 5), (7, 1), (32, 5), (50, 5), (188, 5), (16, 40), (8, 130)])
def test_float32_kernels_equal_the_plain_model(optimizer, D, K):
    indptr, contexts, table = graph(P=900 if K < 100 else 90)  # many large steps by SGD would enlarge every difference
    steps = laid_out(indptr, contexts, table, K)
    start = rows(40, D, 1), rows(40, D, 2)
    expected, got = judged(steps, K, *start, optimizer), trained(steps, K, *start, optimizer)
    assert np.abs(expected[0] - start[0]).max() > 0.05, "the steps must move the rows"
    for e, g in zip(expected, got, strict=False):
        if len(g):
            np.testing.assert_allclose(g, e, atol=2e-3 if D == 1 else 5e-4, rtol=2e-3)


def test_a_step_of_more_rows_than_16_bits_can_count():
    N, K = 50_000, 100_000
    table = noise.alias_table(np.ones(N, int), 1)
    indptr, contexts = np.minimum(np.arange(N + 1), 1), np.array([7], np.int32)
    steps, start = laid_out(indptr, contexts, table, K), (rows(N, 2, 1), rows(N, 2, 2))
    assert len(np.unique(steps[3])) > 1 << 15
    for expected, got in zip(judged(steps, K, *start, "rowwise_adagrad"), trained(steps, K, *start, "rowwise_adagrad"), strict=True):
        np.testing.assert_allclose(got, expected, atol=5e-4, rtol=2e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "rowwise_adagrad"])
@pytest.mark.parametrize("D", [1, 40, 61])
def test_bfloat16_kernels_round_the_plain_models_step_up_or_down_without_bias(optimizer, D):
    """One step with duplicates: each value is a neighbour of the exact one, and the mean over many roundings is the exact one."""
    indptr, contexts, table = np.array([0, 16, *[16] * 9]), np.array([1, 1, 2, 3, 4, 5, 0, 0, *range(8)], np.int32), graph(10, 90)[2]
    steps, start = laid_out(indptr, contexts, table, 5), (rows(10, D, 1), rows(10, D, 2))
    expected = judged(steps, 5, *start, optimizer)
    stored = [rounded(table, np.dtype(np.uint16)) for table in start]
    runs = [trained(steps, 5, *stored, optimizer, words=seed) for seed in range(400)]
    for i in range(2):
        exact, got = expected[i], np.stack([to_float32(run[i]) for run in runs])
        ulp = np.maximum(2.0 ** (np.floor(np.log2(np.maximum(np.abs(exact), 1e-30))) - 7), 1e-8)
        assert (np.abs(got - exact) <= 1.05 * ulp).all() and len(np.unique(got[:, 0, 0])) <= 2
        assert (np.abs(got.mean(axis=0) - exact) < 5 * ulp / np.sqrt(len(runs)) + 2e-4).all()


def test_bfloat16_stays_close_to_float32_over_many_steps():
    indptr, contexts, table = graph()
    steps, start = laid_out(indptr, contexts, table, 5), (rows(40, 64, 1), rows(40, 64, 2))
    exact = trained(steps, 5, *start, "rowwise_adagrad")[0]
    got = to_float32(trained(steps, 5, *(rounded(table, np.dtype(np.uint16)) for table in start), "rowwise_adagrad")[0])
    moved = exact - start[0]
    assert np.linalg.norm(got - exact) < 0.1 * np.linalg.norm(moved)


def test_rounding():
    values = np.array([1.0, 1.00390625, 1.01171875, -3.14159, 0.0], np.float32)  # exact; a tie to even, down; a tie to even, up
    assert to_float32(rounded(values, np.dtype(np.uint16))).tolist() == [1.0, 1.0, 1.015625, -3.140625, 0.0]
    tensor = torch.full((20000,), 1.001953125)  # a quarter of the way from 1 to the next bfloat16
    assert round_stochastically(tensor, torch.Generator().manual_seed(0)).float().mean().item() == pytest.approx(1.001953125, abs=2e-4)
    assert torch.equal(as_tensor(as_stored(tensor.bfloat16())), tensor.bfloat16())


@pytest.mark.parametrize("K", [1, 5, 200])
def test_the_layout_holds_every_pair_once_and_negatives_of_the_noise(K):
    indptr, contexts, table = graph(P=30000 if K == 5 else 900)
    steps, step_targets, step_contexts, terms = laid_out(indptr, contexts, table, K)
    pairs, negatives, place = [], [], 0
    for t, positives in zip(step_targets[:steps], step_contexts[:steps], strict=True):
        assert positives * (1 + K) <= max(kernels.MOST_TERMS, 1 + K)
        pairs += [(int(t), int(c)) for c in terms[place : place + positives]]
        negatives.append(terms[place + positives : place + positives * (1 + K)])
        place += positives * (1 + K)
    assert sorted(pairs) == sorted(zip(np.repeat(np.arange(40), np.diff(indptr)).tolist(), contexts.tolist(), strict=True))
    counts = np.bincount(np.concatenate(negatives), minlength=40)
    weights = np.diff(indptr) ** 0.75
    expected = counts.sum() * weights / weights.sum()
    assert counts[39] == 0 and (np.abs(counts - expected) < 6 * np.sqrt(expected) + 1).all()


def config(**changes):
    return Config.of_preset("cs", **{"dimensions": 24, "block_pairs": 300, "threads": 1, "epochs": 2, **changes})


def run(c, tables=None, epochs=2, data=None):
    indptr, contexts, table = data or graph()
    engine = KernelEngine(c, indptr, contexts, table, *(tables or new_tables(c, indptr, contexts)))
    pairs = sum(engine.train_block(epoch, block, RATE) for epoch in range(epochs) for block in range(engine.blocks.blocks))
    assert pairs == epochs * len(contexts)
    return engine


@pytest.mark.parametrize("row_type", ["bfloat16", "float32"])
def test_one_thread_gives_the_same_bits_twice_in_ram_and_on_disk(row_type, tmp_path):
    once, twice = run(config(row_type=row_type)), run(config(row_type=row_type))
    on_disk = run(config(row_type=row_type, tables_on_disk=True, out=str(tmp_path)))
    assert (tmp_path / "tables" / "target.npy").stat().st_size > 40 * 24 * 2
    for other in (twice, on_disk):
        assert torch.equal(once.target, other.target) and torch.equal(once.context, other.context)
        assert torch.equal(once.state["target_sums"], other.state["target_sums"])
    assert not torch.equal(once.target, run(config(row_type=row_type, seed=1)).target)


def test_a_disk_too_small_for_the_tables_is_told_at_once(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ArtefactError, match=r"tables was not written: the disk is full; free space or choose another --out"):
        new_tables(config(tables_on_disk=True, out=str(tmp_path)), *graph()[:2])


@pytest.mark.parametrize(("optimizer", "most"), [("sgd", 0.2), ("rowwise_adagrad", 0.5)])  # measured: 0.03 and 0.15 at most
def test_two_threads_train_the_same_pairs(optimizer, most):
    """On a graph of many small papers, where what the scheduler decides, order and a lost update now and then, weighs little."""
    c, data = config(row_type="float32", optimizer=optimizer, block_pairs=5000), graph(N=4000, P=20000, hub=1000)
    one, two = run(c, data=data), run(dataclasses.replace(c, threads=2), data=data)
    for name, start in zip(("target", "context"), new_tables(c, *data[:2]), strict=True):
        moved = (getattr(one, name) - start).norm()
        assert (getattr(one, name) - getattr(two, name)).norm() < most * moved


def test_bad_input_is_told_before_the_kernel():
    indptr, contexts, table = graph()
    c = config()
    good = new_tables(c, indptr, contexts)
    outside = contexts.copy()
    outside[3] = 40
    for data, tables, sentence in [
        ((indptr, outside, table), good, r"contexts.npy names paper 40, but there are 40 papers; run notebook 02_build_pairs again"),
        ((indptr, -contexts, table), good, r"contexts.npy names paper"),
        ((indptr[:-1], contexts, table), good, r"noise.npy is of another corpus|does not fit|names paper"),
        ((indptr[::-1].copy(), contexts, table), good, r"contexts_indptr.npy does not fit pairs/contexts.npy"),
        ((indptr, contexts, table[:-1]), good, r"noise.npy is of another corpus \(39 papers, not 40\)"),
        ((indptr, contexts, table), [rows[:-1] for rows in good], r"A table is bfloat16 \(39, 24\), but bfloat16 \(40, 24\) is expected"),
        ((indptr, contexts, table), [rows.float() for rows in good], r"A table is float32 \(40, 24\), but bfloat16"),
    ]:
        with pytest.raises(ArtefactError, match=sentence):
            KernelEngine(c, *data, *tables)
    assert KernelEngine(dataclasses.replace(c, optimizer="sgd"), indptr, contexts, table, *good).state == {}
