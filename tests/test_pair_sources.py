"""Pair sources are the pairs they claim to be, stay inside the caller's buffers, and train as the plain model: citations, walks, shards."""

import dataclasses
import errno
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.config import Config
from helpers.corpus.build import build_corpus
from helpers.errors import ArtefactError, ConfigError
from helpers.models import kernels
from helpers.neighbors.evaluate import validation_scores
from helpers.pairs import shards
from helpers.pairs.blocks import PairBlocks
from helpers.pairs.build import Pairs, build_pairs
from helpers.pairs.shards import ShardPairs, pair_source, write_shards
from helpers.pairs.windows import WalkPairs
from helpers.training.engines import KernelEngine
from helpers.training.loop import chance_loss, train
from helpers.training.torch_engine import TorchEngine
from tests.conftest import random_pairs
from tests.csr import csr
from tests.test_kernels import RATE, graph, judged, rows

MADE_OF = {"contexts.npy": "abc"}


def keys(targets, contexts) -> np.ndarray:
    """Pairs as sorted int64 keys: a multiset to compare."""
    return np.sort(targets.astype(np.int64) << 32 | contexts)


def epoch_of(source, epoch=0) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.concatenate(ids) for ids in zip(*(source.block(epoch, block) for block in range(source.blocks)), strict=True))


def sources(tmp_path, N=60, P=1200):
    """A source of each kind over one random graph in both directions, with several blocks each."""
    indptr, contexts = random_pairs(np.random.default_rng(3), N, P // 2)
    direct = PairBlocks(indptr, contexts, 5, 200)
    write_shards(direct, tmp_path / "shards", MADE_OF, shard_pairs=500, group_pairs=150)
    return direct, WalkPairs(indptr, contexts, 5, 200, 6, 2, 3), ShardPairs(tmp_path / "shards", N, 5, MADE_OF)


def test_pairs_go_to_the_front_of_the_callers_buffers_and_no_further(tmp_path):
    for source in sources(tmp_path):
        total = 0
        for block in range(source.blocks):
            expected = source.block(1, block)
            buffers = [np.full(source.most_pairs + 2000, -7, np.int32) for _ in range(2)]
            filled = len(source.block(1, block, *(buffer[1000:-1000] for buffer in buffers))[0])
            assert filled == len(expected[0]) <= source.most_pairs
            for buffer, ids in zip(buffers, expected, strict=True):
                assert np.array_equal(buffer[1000 : 1000 + filled], ids)
                assert (buffer[:1000] == -7).all() and (buffer[1000 + filled :] == -7).all()
            total += filled
            short = [np.full(filled + 100, -7, np.int32) for _ in range(2)]
            with pytest.raises(ValueError, match=r"broadcast|match"):
                source.block(1, block, short[0][: filled - 1], short[1][: filled - 1])
            assert all((buffer[filled - 1 :] == -7).all() for buffer in short)
        assert total == source.pairs


def test_a_block_depends_on_seed_epoch_and_block_alone(tmp_path):
    for source, again in zip(sources(tmp_path / "a"), sources(tmp_path / "b"), strict=True):
        there = [source.block(epoch, block) for epoch in range(2) for block in range(source.blocks)]
        back = [again.block(epoch, block) for epoch in (1, 0) for block in reversed(range(again.blocks))][::-1]
        assert all(np.array_equal(a, b) for pair in zip(there, back, strict=True) for a, b in zip(*pair, strict=True))
        assert len({targets.tobytes() + contexts.tobytes() for targets, contexts in there}) == len(there), "no block twice"
        again.seed = 6
        again._epoch = None  # what the sources keep of an epoch's order
        assert not np.array_equal(there[0][0], again.block(0, 0)[0])


def test_every_citation_comes_once_an_epoch_in_both_directions(tmp_path):
    direct, _, stored = sources(tmp_path)
    every = keys(np.repeat(np.arange(60), np.diff(direct.indptr)), direct.contexts)
    for source in (direct, stored):
        for epoch in range(3):
            targets, contexts = epoch_of(source, epoch)
            assert np.array_equal(keys(targets, contexts), every) and np.array_equal(keys(contexts, targets), every)


# Walks

WEIGHTED = [(0, 1), (0, 1), (0, 2), (1, 2), (2, 3), (3, 4), (4, 5), (5, 3), (5, 0)]  # citations, one of them twice


def small_graph():
    citing, cited = np.array(WEIGHTED).T
    return csr(np.concatenate([citing, cited]), np.concatenate([cited, citing]), 7)  # paper 6 has none


def test_walk_pairs_come_as_often_as_the_transition_matrix_says():
    indptr, contexts = small_graph()
    step = np.zeros((7, 7))
    np.add.at(step, (np.repeat(np.arange(7), np.diff(indptr)), contexts), 1)
    step[:6] /= step[:6].sum(axis=1, keepdims=True)
    for length, window, walks in ((2, 1, 40_000), (3, 1, 20_000), (6, 2, 10_000), (5, 9, 10_000)):
        source = WalkPairs(indptr, contexts, 1, 100_000, length, window, walks)
        targets, contexts_drawn = epoch_of(source)
        counts = np.zeros((7, 7))
        np.add.at(counts, (targets, contexts_drawn), 1)
        expected, at = np.zeros((7, 7)), np.append(np.full(6, float(walks)), 0)  # at: how many walks are at each paper
        for place in range(length):
            for distance in range(1, min(window, length - 1 - place) + 1):
                expected += at[:, None] * np.linalg.matrix_power(step, distance)
            at = at @ step
        expected += expected.T
        assert counts.sum() == source.pairs == pytest.approx(expected.sum())
        assert (counts[expected == 0] == 0).all() and np.array_equal(counts, counts.T)
        pairs_a_walk = source.walk_pairs if length > 2 else 2  # at most so many of a walk's pairs are the same one
        deviation = np.abs(counts - expected) / np.sqrt(np.maximum(expected, 1) * pairs_a_walk)
        assert deviation.max() < 4.5, (length, window, deviation.max())
        if length == 2:  # the steps are independent: chi-square, 12 degrees of freedom (18 edges of 6 papers, each in two cells)
            one_way = np.zeros((7, 7))
            for block in range(source.blocks):  # whose walks come in one direction first
                walked = source.block(0, block)
                half = len(walked[0]) // 2
                np.add.at(one_way, (walked[0][:half], walked[1][:half]), 1)
            due = walks * step
            assert ((one_way - due)[due > 0] ** 2 / due[due > 0]).sum() < 40
            assert one_way.sum(axis=1).tolist() == [walks] * 6 + [0], "so many walks from every paper with citations"


@given(st.integers(2, 12), st.integers(1, 5), st.integers(2, 9), st.integers(1, 4), st.integers(1, 3), st.integers(1, 300))
def test_every_step_is_a_citation_and_every_pair_within_the_window(N, citations, length, window, walks, block_pairs):
    indptr, contexts = random_pairs(np.random.default_rng(N), N, citations)
    edges = set(zip(np.repeat(np.arange(N), np.diff(indptr)).tolist(), contexts.tolist(), strict=True))
    steps = epoch_of(WalkPairs(indptr, contexts, 0, block_pairs, length, 1, walks))
    assert set(zip(*(ids.tolist() for ids in steps), strict=True)) <= edges
    within, reached = set(edges), set(edges)
    for _ in range(window - 1):
        reached = {(a, c) for a, b in reached for b2, c in edges if b == b2}
        within |= reached
    source = WalkPairs(indptr, contexts, 0, block_pairs, length, window, walks)
    targets, contexts_drawn = epoch_of(source)
    assert set(zip(targets.tolist(), contexts_drawn.tolist(), strict=True)) <= within
    assert len(targets) == source.pairs == sum(1 for i in range(length) for j in range(length) if 0 < abs(i - j) <= window) * source.walks


def test_walks_over_nothing_and_over_what_does_not_fit():
    nothing = WalkPairs(np.zeros(4, np.int64), np.empty(0, np.int32), 0, 100, 5, 2, 1)
    assert nothing.pairs == 0 and len(nothing.block(0, 0)[0]) == 0
    with pytest.raises(ArtefactError, match=r"contexts.npy names paper 9, but there are 7 papers"):
        WalkPairs(small_graph()[0], np.full(18, 9, np.int32), 0, 100, 5, 2, 1)


# Shards


@pytest.fixture
def small_buckets(monkeypatch):
    monkeypatch.setattr(shards, "BUCKET_PAIRS", 1000)


@pytest.fixture
def walks():
    return WalkPairs(*random_pairs(np.random.default_rng(8), 300, 900), 5, 700, 5, 3, 2)


def test_shards_hold_the_sources_pairs_shuffled_over_all_of_them(tmp_path, walks, small_buckets):
    manifest = write_shards(walks, tmp_path / "shards", MADE_OF, epoch=2, shard_pairs=2500, group_pairs=400)
    assert (manifest["pairs"], manifest["papers"], manifest["seed"], manifest["epoch"]) == (walks.pairs, 300, 5, 2)
    assert manifest["source"] == {"pairs_from": "walks", "walk_length": 5, "window": 3, "walks_per_paper": 2}
    assert manifest["made_of"] == MADE_OF
    names = sorted(path.name for path in (tmp_path / "shards").iterdir())
    assert names == ["manifest.json", *(f"shard-{i:05d}.parquet" for i in range(-(-walks.pairs // 2500)))]
    files = [pq.ParquetFile(tmp_path / "shards" / name) for name in names[1:]]
    assert [file.metadata.num_rows for file in files] == [2500] * (walks.pairs // 2500) + [walks.pairs % 2500]
    assert [files[0].metadata.row_group(i).num_rows for i in range(files[0].num_row_groups)] == [400] * 6 + [100]
    column = files[0].metadata.row_group(0).column(1)
    assert column.path_in_schema == "context" and column.physical_type == "INT32" and column.compression == "LZ4"
    assert "BYTE_STREAM_SPLIT" in column.encodings and not column.has_dictionary_page
    tables = [file.read() for file in files]
    targets, contexts = (np.concatenate([table[name].to_numpy() for table in tables]) for name in ("target", "context"))
    given = epoch_of(walks, 2)
    assert np.array_equal(keys(targets, contexts), keys(*given))
    # Shuffled globally: each tenth of the source's pairs is spread evenly over the tenths of the shards. 81 degrees of freedom.
    ranks = np.argsort(np.argsort(given[0].astype(np.int64) << 32 | given[1], kind="stable"))
    place = np.empty(len(ranks), np.int64)
    place[np.argsort(targets.astype(np.int64) << 32 | contexts, kind="stable")] = np.arange(len(ranks))
    table = np.zeros((10, 10))
    np.add.at(table, (np.arange(len(ranks)) * 10 // len(ranks), place[ranks] * 10 // len(ranks)), 1)
    expected = len(ranks) / 100
    assert 40 < ((table - expected) ** 2 / expected).sum() < 140


def test_every_order_of_the_pairs_is_as_likely(tmp_path, monkeypatch):
    """24 orders of four pairs, over two buckets of any size: chi-square, 23 degrees of freedom."""
    indptr, contexts = np.array([0, 1, 2, 3, 4]), np.array([1, 0, 3, 2], np.int32)
    counts = {}
    for seed in range(2400):
        source = PairBlocks(indptr, contexts, seed, 4)
        paths = [tmp_path / "0", tmp_path / "1"]
        shards._into_buckets(source, 0, paths, lambda size: None)
        order = tuple(np.concatenate(list(shards._shuffled(source, 0, paths, [1, 3]))) >> 32)
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24 and sum((count - 100) ** 2 / 100 for count in counts.values()) < 50


def test_shards_are_read_in_another_order_each_epoch(tmp_path, walks, small_buckets):
    write_shards(walks, tmp_path / "shards", MADE_OF, shard_pairs=2500, group_pairs=400)
    source = ShardPairs(tmp_path / "shards", 300, 5, MADE_OF)
    assert source.pairs == walks.pairs and source.settings == walks.settings
    where = {}  # of each row group's content: its shard
    for path in (tmp_path / "shards").glob("*.parquet"):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            where[keys(table["target"].to_numpy(), table["context"].to_numpy()).tobytes()] = path.name, table["target"].to_numpy()
    orders = []
    for epoch in range(2):
        seen = []
        for block in range(source.blocks):
            targets, contexts = source.block(epoch, block)
            name, stored = where[keys(targets, contexts).tobytes()]
            assert not np.array_equal(targets, stored), "shuffled in the block"
            seen.append(name)
        orders.append(seen)
        assert np.array_equal(keys(*epoch_of(source, epoch)), keys(*epoch_of(walks)))
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_shards_of_another_corpus_damaged_or_missing_ones_are_refused(tmp_path, walks):
    good = tmp_path / "shards"
    write_shards(walks, good, MADE_OF, shard_pairs=2500)
    for papers, made_of in ((299, MADE_OF), (300, {"contexts.npy": "abd"}), (300, None)):
        with pytest.raises(ArtefactError, match=r"shards holds pairs of another corpus or split; run .*write_shards again"):
            ShardPairs(good, papers, 0, made_of)
    with pytest.raises(ArtefactError, match=r"nowhere.manifest.json does not exist yet; run .*write_shards first"):
        ShardPairs(tmp_path / "nowhere", 300, 0, MADE_OF)

    def damaged(change):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(good, tmp_path / "copy")
        path = tmp_path / "copy" / "shard-00001.parquet"
        change(path, bytearray(path.read_bytes()))
        return ShardPairs(tmp_path / "copy", 300, 0, MADE_OF)

    def flip(path, content):
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    for change in (lambda path, _: path.unlink(), lambda path, content: path.write_bytes(content[:-9]), flip):
        with pytest.raises(ArtefactError, match=r"shard-00001.parquet is missing or not as its manifest says; run .*write_shards again"):
            damaged(change)
    with pytest.raises(ArtefactError, match=r"manifest.json is damaged; run .*write_shards again"):
        damaged(lambda path, _: (path.parent / "manifest.json").write_text("{"))


def test_what_cannot_be_written_leaves_nothing_and_the_old_shards(tmp_path, walks, monkeypatch):
    write_shards(walks, tmp_path / "shards", MADE_OF)
    before = (tmp_path / "shards" / "manifest.json").read_text()
    original = WalkPairs._fill_block

    def full(source, epoch, block, *buffers):
        if block == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(source, epoch, block, *buffers)

    monkeypatch.setattr(WalkPairs, "_fill_block", full)
    with pytest.raises(ArtefactError, match="shards was not written: the disk is full"):
        write_shards(walks, tmp_path / "shards", MADE_OF)
    walks.pairs = 10**11
    with pytest.raises(ConfigError, match=r"This step needs 900.0 GB of disk, but .* GB are available; free some, or choose another"):
        write_shards(walks, tmp_path / "shards", MADE_OF)
    nothing = PairBlocks(np.zeros(4, np.int64), np.empty(0, np.int32), 0, 100)
    with pytest.raises(ArtefactError, match="was not written: there are no pairs to write"):
        write_shards(nothing, tmp_path / "nothing", MADE_OF)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"] and (tmp_path / "shards" / "manifest.json").read_text() == before


# Training


def settings(**changes):
    given = {
        "dimensions": 24,
        "block_pairs": 10_000,
        "threads": 1,
        "row_type": "float32",
        "walk_length": 4,
        "walks_per_paper": 2,
        **changes,
    }
    return Config.of_preset("cs", **given)


@pytest.mark.parametrize("optimizer", ["sgd", "rowwise_adagrad"])
@pytest.mark.parametrize("pairs_from", ["citations", "walks", "shards"])
def test_the_kernel_engine_trains_a_block_as_the_plain_model(pairs_from, optimizer, tmp_path, monkeypatch):
    indptr, contexts, table = graph()
    c = settings(pairs_from=pairs_from, optimizer=optimizer, out=str(tmp_path))
    write_shards(pair_source(settings(pairs_from="walks"), indptr, contexts), tmp_path / "pair_shards", MADE_OF)
    source, start = pair_source(c, indptr, contexts, MADE_OF), (rows(40, 24, 1), rows(40, 24, 2))
    seen, original = [], kernels.train_steps

    def spy(steps, step_targets, step_contexts, terms, *others):
        used = step_contexts[:steps].sum() * 6
        seen.append((step_targets[:steps].copy(), step_contexts[:steps].copy(), terms[:used].copy()))
        return original(steps, step_targets, step_contexts, terms, *others)

    monkeypatch.setattr(kernels, "train_steps", spy)
    tables = [torch.from_numpy(table.copy()) for table in start]
    engine = KernelEngine(c, indptr, contexts, table, *tables, source=source)
    trained = engine.train_block(0, 0, RATE)
    step_targets, step_contexts, terms = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    firsts = (np.cumsum(step_contexts) - step_contexts) * 6
    positives = np.concatenate([terms[first : first + count] for first, count in zip(firsts, step_contexts, strict=True)])
    given = source.block(0, 0)
    assert trained == len(given[0]) > 200
    assert np.array_equal(keys(np.repeat(step_targets, step_contexts), positives), keys(*given)), "each pair of the block once"
    expected = judged((len(step_targets), step_targets, step_contexts, terms), 5, *start, optimizer)
    assert np.abs(expected[0] - start[0]).max() > 0.05, "the steps must move the rows"
    for judge, got in zip(expected, (engine.target, engine.context), strict=False):
        np.testing.assert_allclose(got.numpy(), judge, atol=5e-4, rtol=2e-3)


@pytest.fixture
def run(config, dump, community_edges):
    """(config, pairs) of the planted communities, ready to train; their walks in `out/pair_shards/`."""
    edges = dump("edges.csv", "citing,cited", *(",".join(edge) for edge in community_edges))

    def make(**changes):
        walks = {"walk_length": 5, "window": 2, "walks_per_paper": 2}
        c = config(dumps=[edges], heldout=0.05, batch_pairs=256, block_pairs=1500, threads=1, **{**walks, **changes})
        if not c.folder("pairs").exists():
            build_corpus(c)
            build_pairs(c)
        pairs = Pairs(c)
        walk = pair_source(dataclasses.replace(c, pairs_from="walks"), pairs.indptr, pairs.contexts)
        if not c.folder("pair_shards").exists():
            write_shards(walk, c.folder("pair_shards"), pairs.fingerprint, shard_pairs=5000, group_pairs=1500)
        return c, pairs, walk

    return make


def test_walks_never_step_over_a_heldout_citation(run):
    _, pairs, walk = run(window=1)
    steps = {frozenset(pair) for pair in zip(*(ids.tolist() for ids in epoch_of(walk)), strict=True)}
    assert len(steps) > 1000 and not steps & {frozenset(pair) for pair in pairs.heldout.tolist()}


@pytest.mark.parametrize("engine", ["kernel", "torch"])
@pytest.mark.parametrize("pairs_from", ["walks", "shards"])
def test_the_loop_trains_from_walks_and_shards(run, pairs_from, engine):
    c, pairs, walk = run(pairs_from=pairs_from, engine=engine, epochs=3, learning_rate=0.1)
    result = train(c, pairs, validation_scores(pairs))
    assert result.log[-1]["pairs"] == 3 * walk.pairs and result.log[-1]["loss"] < 0.7 * chance_loss(c.negatives)
    assert result.log[-1]["mrr"] > 0.07  # chance: .02
    again = train(dataclasses.replace(c, epochs=3), pairs)  # from the checkpoint: nothing to do
    assert torch.equal(again.target, result.target)


def test_torch_trains_the_walks_pairs(run, monkeypatch):
    c, pairs, walk = run(pairs_from="walks", engine="torch", epochs=1)
    seen, original = [], TorchEngine._train

    def spy(engine, batch, *rest):
        pairs_of_batch = len(batch[0].places)  # behind its contexts stand the negatives
        seen.append([working.ids[working.places[:pairs_of_batch]] for working in batch])
        return original(engine, batch, *rest)

    monkeypatch.setattr(TorchEngine, "_train", spy)
    train(c, pairs)
    targets, contexts = (torch.cat(ids).numpy() for ids in zip(*seen, strict=True))
    assert np.array_equal(keys(targets, contexts), keys(*epoch_of(walk)))


def test_a_run_goes_on_from_its_own_pairs_alone(run):
    c, pairs, walk = run(pairs_from="shards", epochs=1)
    train(c, pairs)
    for other, said in (
        ({"pairs_from": "citations"}, "pairs_from shards there, citations here"),
        ({"window": 3}, "window 2 there, 3 here"),
    ):
        with pytest.raises(ArtefactError, match=f"belongs to another run .*{said}"):
            train(dataclasses.replace(c, **other), pairs)
    write_shards(walk, c.folder("pair_shards"), pairs.fingerprint, epoch=1)
    with pytest.raises(ArtefactError, match=r"belongs to another run \(other training pairs\)"):
        train(c, pairs)
    shutil.rmtree(c.folder("pair_shards"))
    with pytest.raises(ArtefactError, match=r"shards.manifest.json does not exist yet; run .*write_shards first"):
        train(c, pairs)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pairs_from": "text"}, r"pairs_from = 'text' cannot work: it must be one of citations, walks, shards, windows\."),
        ({"walk_length": 1}, r"walk_length = 1 cannot work: it must be a whole number of papers from 2 to 1,000\."),
        ({"window": 0}, r"window = 0 cannot work: it must be a whole number of steps from 1 to 1,000\."),
        ({"walks_per_paper": 1.5}, r"walks_per_paper = 1.5 cannot work: it must be a whole number from 1 to 10,000\."),
    ],
)
def test_settings_that_cannot_work(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        settings(**changes)
