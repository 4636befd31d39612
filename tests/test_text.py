"""Texts: cleaned, numbered and paired as the plain way does it, thinned as word2vec does, handed out once, refused in a sentence."""

import dataclasses
import gzip
import itertools
import json
import re
import shutil
import unicodedata
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.config import Config
from helpers.corpus import text
from helpers.corpus.build import open_corpus
from helpers.corpus.text import build_vocabulary, words_of
from helpers.errors import ArtefactError, ConfigError, DumpError, UserError
from helpers.neighbors.evaluate import validation_scores
from helpers.neighbors.search import find_papers
from helpers.pairs import noise
from helpers.pairs.blocks import ORDER, PAIRS
from helpers.pairs.build import Pairs, build_pairs
from helpers.pairs.shards import PairDataset, ShardPairs, pair_source, write_shards
from helpers.pairs.windows import WindowPairs, window_pairs
from helpers.training import checkpoint
from helpers.training.engines import KernelEngine, SampleLoss, new_tables
from helpers.training.loop import chance_loss, train
from helpers.training.torch_engine import TorchEngine
from tests.test_pair_sources import epoch_of, keys

TEXTS = [
    "The cat sat on the mat, the CAT sat.",
    "Кошка сидит на ковре; кошка — не собака!",
    "In 1998 the ﬁrst cat\u00a0slept\ton the mat...",
    "123 456",
    "",
    "Мой домик: мой дом, моё́ по-русски.",
]


@pytest.fixture
def words(tmp_path):
    """A Config of the words preset in a fresh folder, every word kept: words(dumps=[...], min_degree=2)."""
    return lambda **changes: Config.of_preset("words", **{"out": str(tmp_path / "run"), "min_degree": 1, "dimensions": 8, **changes})


def plain(lines: list[str], least: int) -> tuple[dict[str, int], list[list[str]]]:
    """(word -> count, most frequent first, ties by first place; texts as lists of words), the slow way."""
    texts = []
    for line in lines:
        line = unicodedata.normalize("NFKC", line).lower()
        line = "".join(mark for mark in line if unicodedata.category(mark) not in ("Mn", "Cf"))
        texts.append("".join(mark if mark.isalpha() else " " for mark in line).split())
    counts = Counter(word for words in texts for word in words)
    order = sorted((word for word in counts if counts[word] >= least), key=lambda word: -counts[word])
    return {word: counts[word] for word in order}, [kept for words in texts if (kept := [w for w in words if counts[w] >= least])]


def stored(config) -> tuple[dict[str, int], list[list[str]]]:
    vocabulary = json.loads((config.folder("corpus") / "vocabulary.json").read_text(encoding="utf-8"))
    tokens, starts = (np.load(config.folder("corpus") / f"{name}.npy") for name in ("tokens", "texts_indptr"))
    names = list(vocabulary)
    return vocabulary, [[names[word] for word in tokens[a:b]] for a, b in itertools.pairwise(starts)]


def clean(text: str) -> list[str]:
    *words, end = words_of(pa.array([text])).to_pylist()
    assert end == ""
    return words


def test_cleaning():
    assert words_of(pa.array(["", "one two", "7", "three"])).to_pylist() == ["", "one", "two", "", "", "three", ""]
    assert clean("The ﬁrst, 2nd & 3rd CATS!") == ["the", "first", "nd", "rd", "cats"]
    assert clean("Привет,  МИР\u0301 №5") == ["привет", "мир", "no"]
    assert clean("и\u0306ога") == ["йога"] == clean("йога"), "composed"
    assert clean("за\u0301мок со\u00adстав x_y") == ["замок", "состав", "x", "y"]
    assert clean("İstanbul") == ["istanbul"]


@pytest.mark.parametrize("least", [1, 2])
@pytest.mark.parametrize("form", ["txt", "txt.gz", "csv", "csv.gz", "tsv", "parquet", "folder"])
def test_a_text_is_what_the_plain_way_makes_of_it(words, tmp_path, form, least):
    path, joined = tmp_path / f"text.{form}", "\n".join(TEXTS) + "\n"
    table = {"id": [str(i) for i in range(len(TEXTS))], "text": TEXTS}
    mark = "\t" if form == "tsv" else ","
    lines = [f"id{mark}text", *(f'{i}{mark}"{line}"' for i, line in enumerate(TEXTS))]
    written = {"txt": joined, "csv": "\n".join(lines) + "\n", "tsv": "\n".join(lines).replace("\tslept\t", " slept ") + "\n"}
    if form == "parquet":
        pq.write_table(pa.table(table), path)
    elif form == "folder":
        path.mkdir()
        (path / "a.txt").write_text("\n".join(TEXTS[:2]), encoding="utf-8")
        (path / "b.txt").write_text("\n".join(TEXTS[2:]), encoding="utf-8")
    else:
        content = written[form.removesuffix(".gz")].encode()
        path.write_bytes(gzip.compress(content) if form.endswith(".gz") else content)
    config = words(dumps=[path], min_degree=least)
    report = build_vocabulary(config)
    expected, texts = plain(TEXTS, least)
    assert stored(config) == (expected, texts)
    papers, indptr, cited, _ = open_corpus(config)
    assert papers["paper_id"].to_pylist() == papers["title"].to_pylist() == list(expected)
    assert papers["degree"].to_pylist() == list(expected.values()) and len(indptr) == len(papers) + 1 and not len(cited)
    assert find_papers(papers, "the").tolist() == [list(expected).index("the")]
    assert report["texts"]["kept"] == len(texts) and report["words"]["kept"] == sum(expected.values())
    assert report["texts"]["read"] - sum(report["texts"]["dropped"].values()) == len(texts)


def test_large_texts_are_read_in_pieces(words, tmp_path, monkeypatch):
    generator = np.random.default_rng(1)
    lines = [" ".join(f"{chr(97 + w % 26)}{chr(1072 + w // 26 % 32)}" for w in generator.zipf(1.3, 30) % 700) for _ in range(400)]
    lines[7] = " ".join(lines[8:40])  # longer than a block
    (tmp_path / "large.txt").write_text("\n".join(lines), encoding="utf-8")
    config = words(dumps=[tmp_path / "large.txt"])
    for name, value in {"BLOCK": 700, "PIECE": 1000, "TEXT_WORDS": 90}.items():
        monkeypatch.setattr(text, name, value)
    build_vocabulary(config)
    vocabulary, texts = stored(config)
    expected, whole = plain(lines, 1)
    assert vocabulary == expected and list(itertools.chain(*texts)) == list(itertools.chain(*whole))
    assert max(map(len, texts)) <= 90 and len(texts) > 400
    starts, of_whole = (set(np.cumsum([len(words) for words in of]).tolist()) for of in (texts, whole))
    assert of_whole <= starts, "a text begins wherever one did"


def test_the_same_texts_are_not_read_again(words, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("one two two\n")
    config = words(dumps=[tmp_path / "a.txt"])
    assert build_vocabulary(config) == build_vocabulary(config)
    assert "it stays as it is" in capsys.readouterr().out
    (tmp_path / "a.txt").write_text("three three two\n")
    assert build_vocabulary(config)["words"]["read"] == 3 and list(stored(config)[0]) == ["three", "two"]


BAD = {
    "an empty text": (b"", {}, r"bad.txt: of 0 different words the commonest comes 0 times, but two that come 1 times \(min_degree\)"),
    "numbers alone": (b"1 2 3\n4\n", {}, r"of 0 different words .*; give more text, or lower min_degree\."),
    "one word": (b"word\n", {}, r"of 1 different words the commonest comes 1 times, but two that come 1 times"),
    "no word left": (b"a b c d a\n", {"min_degree": 5}, r"of 4 different words the commonest comes 2 times, but two that come 5 times"),
    "other bytes": (
        "привет мир\n".encode("cp1251") * 3,
        {},
        r"3 of 3 records are malformed \(first: bad.txt, text 1, which is not UTF-8",
    ),
    "too many": (b"a b\n" * 50 + b"a \xff b\n", {}, r"1 of 51 records .*text 51, .*more than the 1% allowed"),
}


@pytest.mark.parametrize("content, settings, sentence", BAD.values(), ids=BAD)
def test_bad_texts_are_refused_in_one_sentence(words, tmp_path, content, settings, sentence):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(DumpError, match=sentence) as refused:
        build_vocabulary(words(dumps=[tmp_path / "bad.txt"], **settings))
    assert "\n" not in str(refused.value) and not (tmp_path / "run" / "corpus").exists()


def test_bad_tables_and_files_are_refused_in_one_sentence(words, tmp_path):
    (tmp_path / "numbers.csv").write_text("a,b\n1,2\n")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "numbers.parquet")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"some words " * 1000)[:-20])
    (tmp_path / "no.parquet").write_bytes(b"no parquet")
    expected = {
        "numbers.csv": "has no column of text; found a, b",
        "numbers.parquet": "has no column of text; found a",
        "cut.txt.gz": "is cut off in the middle",
        "no.parquet": "is damaged",
        "nowhere.txt": "does not exist",
    }
    for name, sentence in expected.items():
        with pytest.raises(UserError, match=rf"{re.escape(name)}.* ?{sentence}") as refused:
            build_vocabulary(words(dumps=[tmp_path / name]))
        assert "\n" not in str(refused.value)


def test_a_few_bad_texts_are_counted_and_left_out(words, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one two\n" * 9 + b"one \xff\xfe three\n" + b"one two\n")
    report = build_vocabulary(words(dumps=[tmp_path / "a.txt"], max_bad_fraction=0.1))
    assert report["texts"] == {"read": 11, "dropped": {"malformed": 1}, "kept": 10}
    assert report["words"]["kept"] == 20 and report["first_of_each"] == {"malformed": "a.txt, text 10, which is not UTF-8"}


# Windows


def random_texts(generator, N=50, texts=80, longest=40):
    """(tokens int32, indptr int64 (T+1,), counts) of random texts of 1 to `longest` words."""
    lengths = generator.integers(1, longest, texts)
    tokens = (generator.zipf(1.5, lengths.sum()) % N).astype(np.int32)
    return tokens, np.concatenate([[0], np.cumsum(lengths)]), np.bincount(tokens, minlength=N)


class Drawn:
    """What the kernel draws, in its order: the generator of models/kernels.py."""

    def __init__(self, source, epoch, block):
        self.state = int(source.generator(epoch, block, PAIRS).integers(0, 2**64, dtype=np.uint64))

    def __call__(self) -> int:
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return self.state >> 32


@pytest.mark.parametrize("subsample, window", [(0.0, 1), (0.0, 5), (0.02, 3)])
def test_window_pairs_are_those_of_the_plain_double_loop(subsample, window):
    tokens, indptr, counts = random_texts(np.random.default_rng(3))
    left_out = np.random.default_rng(4).random(len(indptr) - 1) < 0.3
    source = WindowPairs(tokens, indptr, left_out, counts, 9, 100_000, window, subsample)
    assert source.blocks == 1
    draw, expected, share = Drawn(source, 2, 0), [], counts / counts.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        stay = np.minimum(1, (np.sqrt(share / subsample) + 1) * subsample / share) if subsample else np.ones(len(counts))
    for run in source.generator(2, purpose=ORDER).permutation(len(source._firsts) - 1):
        for text_of_run in range(source._firsts[run], source._firsts[run + 1]):
            if left_out[text_of_run]:
                continue
            line = [word for word in tokens[indptr[text_of_run] : indptr[text_of_run + 1]] if draw() < int(stay[word] * 2**32)]
            for i, word in enumerate(line):
                width = 1 + draw() * window // 2**32
                expected += [(word, other) for j, other in enumerate(line) if 0 < abs(i - j) <= width]
    assert list(zip(*(ids.tolist() for ids in source.block(2, 0)), strict=True)) == expected and len(expected) > 100


def test_blocks_depend_on_seed_epoch_and_block_alone_and_fit_their_buffers():
    tokens, indptr, counts = random_texts(np.random.default_rng(3), texts=3000)
    given = tokens, indptr, np.zeros(len(indptr) - 1, bool), counts
    source, again, other = (WindowPairs(*given, seed, 20_000, 5, 1e-2) for seed in (1, 1, 2))
    assert source.blocks > 5
    there = [source.block(epoch, block) for epoch in range(2) for block in range(source.blocks)]
    back = [again.block(epoch, block) for epoch in (1, 0) for block in reversed(range(again.blocks))][::-1]
    assert all(np.array_equal(a, b) for one, two in zip(there, back, strict=True) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(there[0][0], there[source.blocks][0]) and not np.array_equal(there[0][0], other.block(0, 0)[0])
    trained = sum(len(targets) for targets, _ in there[: source.blocks])
    assert abs(source.pairs / trained - 1) < 0.05 and max(len(targets) for targets, _ in there) < source.most_pairs
    buffers = np.full((2, source.most_pairs + 10), -7, np.int32)
    filled = len(source.block(0, 3, *buffers)[0])
    assert np.array_equal(buffers[:, :filled], np.stack(source.block(0, 3)))
    with pytest.raises(ValueError, match="do not match"):
        source.block(0, 3, *buffers[:, : source.most_pairs - 1])
    papers, order, starts, contexts = source.by_target(0, 3)
    targets = np.repeat(papers, np.diff(starts))
    assert not np.array_equal(order, np.sort(order))
    assert np.array_equal(np.stack([targets, contexts]), buffers[:, :filled]) and sorted(order) == list(range(len(papers)))


def test_frequent_words_are_left_out_as_often_as_word2vec_does():
    N = 16
    counts = 1 << np.arange(N, 0, -1)
    tokens = np.random.default_rng(0).permutation(np.repeat(np.arange(N, dtype=np.int32), counts))
    source = WindowPairs(tokens, np.arange(0, len(tokens) + 1, 2), np.zeros(len(tokens) // 2, bool), counts, 0, 1 << 30, 1, 1e-3)
    share = counts / counts.sum()
    stay = np.minimum(1, (np.sqrt(share / 1e-3) + 1) * 1e-3 / share)
    expected = np.zeros((N, N))
    np.add.at(expected, tuple(tokens.reshape(-1, 2).T), 1)  # texts of two words: a pair where both stay, each way round
    expected *= stay[:, None] * stay
    expected += expected.T
    found = np.zeros((N, N))
    for epoch in range(20):
        np.add.at(found, epoch_of(source, epoch), 1)
    deviation = np.abs(found - 20 * expected) / np.sqrt(np.maximum(20 * expected, 1))
    assert deviation.max() < 6 and found.sum() == pytest.approx(20 * expected.sum(), rel=0.01)
    widths = WindowPairs(tokens, np.array([0, len(tokens)]), np.zeros(1, bool), counts, 0, 1 << 30, 5, 0.0)
    assert len(widths.block(0, 0)[0]) == pytest.approx(6 * len(tokens), rel=0.01), "widths of 1 to 5: 3 to either side"


# The stages after it


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The bundled text as corpus and pairs, in blocks of a few thousand pairs."""
    config = Config.of_preset("words", out=str(tmp_path_factory.mktemp("words")), dimensions=16, block_pairs=20_000, epochs=2)
    build_vocabulary(config)
    build_pairs(config)
    return config


def test_held_out_texts_are_never_trained(run):
    pairs, source = Pairs(run), window_pairs(run)
    left_out = np.load(run.folder("pairs") / "left_out.npy")
    assert 0.01 < left_out.mean() < 0.03 and len(pairs.heldout) > 2000
    tokens, starts = source.tokens, source.indptr
    trained = {tuple(tokens[a:b]) for a, b, hidden in zip(starts[:-1], starts[1:], left_out, strict=True) if not hidden}
    assert len(trained) > 5000
    every = keys(np.repeat(np.arange(pairs.papers), np.diff(pairs.indptr)), pairs.contexts)
    assert np.array_equal(every, keys(*epoch_of(source))), "what is stored is one epoch"
    assert all((np.diff(pairs.contexts[a:b]) >= 0).all() for a, b in zip(pairs.indptr[:-1], pairs.indptr[1:], strict=True))
    neighbours = {}
    for a, b in itertools.pairwise(starts):
        for i in range(a, b):
            neighbours.setdefault(int(tokens[i]), set()).update(tokens[max(a, i - 5) : min(b, i + 6)].tolist())
    assert all(context in neighbours[target] for target, context in pairs.heldout.tolist())


@pytest.mark.parametrize("Engine", [KernelEngine, TorchEngine])
def test_both_engines_train_on_windows_and_with_either_noise(run, tmp_path, Engine):
    config = Config.of_preset(**{**vars(run), "out": run.out, "threads": 1, "engine": "kernel" if Engine is KernelEngine else "torch"})
    pairs = Pairs(run)
    counts = open_corpus(run, ["degree"])[0]["degree"].to_numpy()
    for table in (pairs.noise, noise.alias_table(counts, 0.75, slots=10_000)):
        engine = Engine(config, pairs.indptr, pairs.contexts, table, *new_tables(config, pairs.indptr, pairs.contexts))
        loss = SampleLoss(pair_source(Config.of_preset(**{**vars(run), "pairs_from": "citations"}), pairs.indptr, pairs.contexts), table, 5)
        before = loss(engine)
        for block in range(engine.blocks.blocks):
            assert engine.train_block(0, block, 0.07) == len(engine.blocks.block(0, block)[0])
        engine.flush()
        assert loss(engine) < min(before, 0.5 * chance_loss(5))
    with pytest.raises(ArtefactError, match="noise"):
        Engine(config, pairs.indptr, pairs.contexts, pairs.noise[:-1], *new_tables(config, pairs.indptr, pairs.contexts))


def test_a_training_that_was_cut_off_goes_on_to_the_same_rows(run, tmp_path):
    pairs, found = Pairs(run), []
    for name, stops in (("whole", (2,)), ("cut", (1, 2))):
        shutil.copytree(run.out, tmp_path / name)
        for epochs in stops:
            config = dataclasses.replace(run, out=str(tmp_path / name), threads=1, epochs=2)
            source = window_pairs(config)
            if epochs == 1:  # killed after the first epoch's checkpoint
                _killed_after(config, pairs, source.blocks)
            else:
                result = train(config, pairs, evaluate=validation_scores(pairs, 50))
        found.append(result)
    assert found[0].log[-1]["pairs"] == found[1].log[-1]["pairs"] and (found[0].target == found[1].target).all()
    losses = [row["loss"] for row in found[0].log]
    assert losses[-1] < 0.5 * losses[0] and found[0].log[-1]["mrr"] > 0.5


def _killed_after(config, pairs, blocks: int) -> None:
    class Killed(Exception):
        pass

    original = checkpoint.Checkpoints.save_if_due

    def save_and_die(self, engine, log):
        if len(log) - 1 == blocks:
            self.save_last(engine, log)
            raise Killed
        return original(self, engine, log)

    patch = pytest.MonkeyPatch()
    patch.setattr(checkpoint.Checkpoints, "save_if_due", save_and_die)
    with pytest.raises(Killed):
        train(config, pairs)
    patch.undo()


def test_nothing_to_pair_is_told(words, tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n" * 10)
    config = words(dumps=[tmp_path / "a.txt"])
    build_vocabulary(config)
    with pytest.raises(ConfigError, match=r"heldout 0.02 and subsample 0.001 leave no pair of words; take others, or more text"):
        build_pairs(config)
    with pytest.raises(ArtefactError, match=r"left_out.npy does not exist yet; run notebook 08_word_vectors first"):
        window_pairs(config)


# Shards and the dataset


@pytest.fixture(scope="module")
def shards(run):
    pairs, source = Pairs(run), window_pairs(run)
    write_shards(source, run.folder("pair_shards"), pairs.fingerprint, shard_pairs=60_000, group_pairs=7_000)
    return ShardPairs(run.folder("pair_shards"), pairs.papers, 0, pairs.fingerprint)


def together(batches) -> np.ndarray:
    return keys(*(np.concatenate([np.asarray(part) for part in parts]) for parts in zip(*batches, strict=True)))


def test_words_train_from_shards(run, shards):
    pairs = Pairs(run)
    source = pair_source(Config.of_preset(**{**vars(run), "pairs_from": "shards"}), pairs.indptr, pairs.contexts, pairs.fingerprint)
    assert source.settings == {"pairs_from": "windows", "window": 5, "subsample": 1e-3} and len(source.files) == 3
    assert np.array_equal(keys(*epoch_of(source)), keys(*epoch_of(window_pairs(run))))


@pytest.mark.parametrize("workers", [0, 2])
def test_no_pair_comes_twice_however_many_workers_read(shards, workers):
    dataset = PairDataset(shards, 1000)
    batches = list(dataset.batches(workers))
    assert max(len(targets) for targets, _ in batches) == 1000 and dataset.epoch == 1
    assert np.array_equal(together(batches), keys(*epoch_of(shards)))
    if not workers:
        assert not np.array_equal(batches[0][0], next(dataset.batches())[0]), "the next epoch has another order"


@pytest.mark.parametrize("stop", [1, 5, 30])
def test_a_dataset_goes_on_inside_a_shard(shards, stop):
    dataset = PairDataset(shards, 1000, epoch=3)
    seen = [batch for _, batch in zip(range(stop), dataset.batches(), strict=False)]
    resumed = PairDataset(shards, 1000, dataset.epoch, json.loads(json.dumps(dataset.done)))
    rest = list(resumed.batches())
    assert stop % 7 and np.array_equal(together(seen + rest), keys(*epoch_of(shards, 3)))


# Noise


def test_a_unigram_table_has_the_distribution_to_a_slot():
    degree = np.array([100, 0, 16, 1, 1])
    shares = degree**0.75 / (degree**0.75).sum()
    table = noise.alias_table(degree, 0.75, slots=1000)
    assert np.abs(np.bincount(table["alias"], minlength=5) - 1000 * shares).max() <= 1
    drawn = np.bincount(noise.draw(table, 200_000, np.random.default_rng(0)), minlength=5)
    assert np.abs(drawn / 200_000 - shares).max() < 0.005 and drawn[1] == 0
