"""Word vectors: a real text beside gensim, pair rates at a vocabulary of 2.5 million, PIP loss, and sgns_pytorch's table.

The text is gathered from what is installed (gathered_text.py). gensim reads it in its own way (texts of words, window 5, subsampling,
both as ours) and as sentences of two words, the very pairs that ours trains; of its two ways the better one counts. Every side trains
EPOCHS epochs; its learning rate is the best of RATES on the validation half of the held-out window pairs, and so is its reading; MRRs are
the test half's, means over SEEDS. Times are CPU-seconds of the whole process: other work on the machine only slows a wall clock.
PIP loss is neighbors/baselines.pip_loss: min over c of |c E E' - SPPMI| / |SPPMI|, E the target rows less their mean, K = 5.
"""

import contextlib
import dataclasses
import io
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from gensim.models import Word2Vec

from helpers.config import Config
from helpers.corpus.build import open_corpus
from helpers.corpus.text import build_vocabulary
from helpers.export.embeddings import open_answer
from helpers.models.title_encoder import TitleEncoder, embed, fit
from helpers.neighbors.baselines import factorised, pip_loss
from helpers.neighbors.evaluate import Questions, splits
from helpers.neighbors.search import normalised, top_k
from helpers.pairs.blocks import PairSource
from helpers.pairs.build import Pairs, build_pairs
from helpers.pairs.noise import alias_table, draw
from helpers.pairs.shards import ShardPairs, write_shards
from helpers.pairs.windows import WindowPairs, window_pairs
from helpers.rows.files import Float32Rows, as_stored
from helpers.training.engines import KernelEngine
from helpers.training.loop import train
from tests.benchmarks.gathered_text import write_text
from tests.benchmarks.pairs_rates import pairs_per_cpu_s
from tests.peers import WORKERS, train_checked

TEXT_BYTES, EPOCHS, SEEDS, D, QUESTIONS = 5_300_000, 5, (0, 1, 2), 100, 2500
RATES = {"ours": (0.0125, 0.025, 0.05), "gensim, texts": (0.006, 0.0125, 0.025), "gensim, pairs": (0.0125, 0.025, 0.05)}
VOCABULARY, TOKENS, TEXT_LENGTH, SUBSAMPLE = 2_500_000, 16_000_000, 20, 1e-4  # of the Zipf text
LARGE_D, GOAL_PAIRS, SEEDS_HOURS = 100, 10**9, 13  # taiga's notebook took 13 hours for an epoch on a T4
RATE_SECONDS = 60
TABLE = [(dimensions, batch) for dimensions in (50, 200) for batch in (1024, 8192)]
TABLE_RATE, TABLE_EPOCHS, RNN_PAIRS = 0.07, 2, 1 << 16  # the encoder reads some thousand pairs a second: of each epoch it sees so many
NEIGHBOURS = ("array", "file", "function", "thread", "matrix", "error", "random", "date")
ANALOGIES = ("array arrays matrix", "row rows column", "minimum maximum lower", "return returns raise", "encode decode write")


def run(quick: bool = False) -> dict[str, float]:
    """The figures of issue 11's words; quick: a tenth of the text, one seed and rate, a tenth of the vocabulary, no table."""
    with tempfile.TemporaryDirectory() as place:
        figures = at_scale(Path(place) / "zipf", 10 if quick else 1)
        path = Path(place) / "text.txt"
        size = write_text(path, TEXT_BYTES // 6 if quick else TEXT_BYTES)
        text = Text(Config.of_preset("words", dumps=[path], out=Path(place) / "run", epochs=2 if quick else EPOCHS, block_pairs=1 << 17))
        print(f"\n{size / 1e6:.1f} MB of text: {text.pairs.papers:,} words, {text.source.pairs:,} pairs an epoch; {text.epochs} epochs\n")
        figures |= beside_gensim(text, SEEDS[:1] if quick else SEEDS, slice(1, 2) if quick else slice(None))
        text.show()
        if not quick:
            table(text)
    return figures


def at_scale(folder: Path, smaller: int) -> dict[str, float]:
    """Rates of pairs on the fly, of shards written and read, and of training, at VOCABULARY words; an epoch of GOAL_PAIRS from them."""
    generator, N = np.random.default_rng(0), VOCABULARY // smaller
    tokens = draw(alias_table((1e10 / (np.arange(N) + 2.7)).astype(np.int64), 1.0), TOKENS // smaller, generator).astype(np.int32)
    indptr = np.arange(0, len(tokens) + 1, TEXT_LENGTH)
    counts, left_out = np.bincount(tokens, minlength=N), np.zeros(len(indptr) - 1, bool)
    source = WindowPairs(tokens, indptr, left_out, counts, 0, 1 << 19, 5, SUBSAMPLE)
    figures = {"on_the_fly_pairs_per_cpu_s": pairs_per_cpu_s(source)}
    start = time.process_time()
    manifest = _quietly(write_shards, source, folder, {})
    figures["shard_write_pairs_per_cpu_s"] = manifest["pairs"] / (time.process_time() - start)
    shards, rates = ShardPairs(folder, N, 0, {}), []
    for epoch in range(2):
        start = time.perf_counter()
        read = sum(len(shards.block(epoch, block)[0]) for block in range(shards.blocks))
        rates.append(read / (time.perf_counter() - start))
    figures["shard_read_pairs_per_s"] = max(rates)
    config = Config.of_preset("words", out=folder, dimensions=LARGE_D)
    tables = [torch.from_numpy(generator.random((N, LARGE_D), np.float32) / LARGE_D).bfloat16() for _ in range(2)]
    nothing = np.zeros(N + 1, np.int64), np.empty(0, np.int32)
    engine, trained, block = KernelEngine(config, *nothing, alias_table(counts, 0.75), *tables, source=source), 0, 0
    engine.train_block(0, 0, 1e-3)  # compiled
    start = time.process_time(), time.perf_counter()
    while time.perf_counter() - start[1] < RATE_SECONDS / smaller:
        block += 1
        trained += engine.train_block(*divmod(block, source.blocks), 1e-3)
    cpu, wall = time.process_time() - start[0], time.perf_counter() - start[1]
    figures["train_pairs_per_cpu_s"] = trained / cpu
    hours = [GOAL_PAIRS / (WORKERS * trained / cpu) / 3600, GOAL_PAIRS / trained * wall / 3600]
    figures["epoch_of_1g_pairs_hours"] = hours[0]
    print(f"{N:,} words x {LARGE_D}, Zipf text of {len(tokens):,}: {manifest['pairs']:,} pairs in {len(shards.files)} shards")
    print(f"trained at {trained / cpu / 1e6:.2f} million pairs a CPU-second, texts to pairs included; an epoch of 1 G pairs on two cores:")
    print(f"{hours[0]:.3f} hours by the CPU clock, {hours[1]:.3f} by the wall here; the seed's on a T4: {SEEDS_HOURS} hours")
    return figures


def _quietly(function, *arguments, **named):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments, **named)


class Text:
    """A text as corpus and pairs, with questions of both halves of its held-out pairs, and the ways to train on it."""

    def __init__(self, config: Config):
        self.config, self.epochs = config, config.epochs
        start = time.process_time()
        report = _quietly(build_vocabulary, config)
        print(f"{report['words']['read'] / (time.process_time() - start) / 1e6:.2f} million words read a CPU-second")
        _quietly(build_pairs, config)
        self.pairs, self.source = Pairs(config), window_pairs(config)
        self.validation, self.test = (Questions(self.pairs, half[:QUESTIONS], seed) for seed, half in enumerate(splits(self.pairs.heldout)))
        self.words = open_corpus(config, ["title"])[0]["title"].to_pylist()

    def ours(self, rate: float, seed: int, **changes):
        """(target, context, seconds, PIP losses) of our training."""
        config = dataclasses.replace(self.config, learning_rate=rate, seed=seed, **changes)
        shutil.rmtree(config.folder("checkpoints"), ignore_errors=True)
        watched, losses = 0.0, []

        def watch(target, context):
            nonlocal watched
            begun = time.process_time()
            losses.append(pip_loss(self.pairs, target))
            watched += time.process_time() - begun
            return {"pip_loss": losses[-1]}

        start = time.process_time()
        trained = _quietly(train, config, self.pairs, evaluate=watch)
        seconds = time.process_time() - start - watched
        return *(Float32Rows(as_stored(rows))[:] for rows in (trained.target, trained.context)), seconds, losses

    def gensim(self, rate: float, seed: int, as_pairs: bool):
        """(target, context, seconds, PIP losses) of gensim, on the texts or on sentences of two words."""
        names, counts = np.array([str(word) for word in range(self.pairs.papers)], object), self.source.counts
        how = dict(window=1, sample=0) if as_pairs else dict(window=self.config.window, sample=self.config.subsample)
        model = Word2Vec(
            vector_size=self.config.dimensions, sg=1, hs=0, negative=self.config.negatives, ns_exponent=self.config.noise_power,
            min_count=1, sorted_vocab=0, alpha=rate, min_alpha=rate / 10, workers=WORKERS, seed=seed + 1, **how,
        )  # fmt: skip
        model.build_vocab_from_freq({name: int(count) for name, count in zip(names, counts, strict=True)})
        spent = 0.0
        if as_pairs:  # both ways round each: half of the pairs of each epoch, as sentences
            source = window_pairs(dataclasses.replace(self.config, seed=seed))
            for epoch in range(self.epochs):
                pairs = np.concatenate([np.stack(source.block(epoch, block), axis=1) for block in range(source.blocks)])
                sentences = names[np.random.default_rng(epoch).permutation(pairs)[::2]].tolist()
                model.alpha, model.min_alpha = (rate * (1 - 0.9 * done / self.epochs) for done in (epoch, epoch + 1))
                begun = time.process_time()
                train_checked(model, sentences)
                spent += time.process_time() - begun
        else:
            texts = zip(self.source.indptr[:-1], self.source.indptr[1:], self.source.left_out, strict=True)
            texts = [names[self.source.tokens[first:last]].tolist() for first, last, hidden in texts if not hidden]
            begun = time.process_time()
            model.train(texts, total_examples=len(texts), epochs=self.epochs)
            spent = time.process_time() - begun
        return model.wv.vectors, model.syn1neg, spent, [pip_loss(self.pairs, model.wv.vectors)]

    def show(self) -> None:
        """Print neighbours and analogies by the vectors of the last checkpoint."""
        answer = open_answer(self.config)
        search, row_of = answer.search(), {word: row for row, word in enumerate(self.words)}
        print("\nNeighbours (cosine of target rows, centred)")
        for word in (word for word in NEIGHBOURS if word in row_of):
            print(f"  {word}: {', '.join(search.near(row_of[word], k=8)['title'])}")
        print("Analogies")
        centred = search.tables()["centred"]
        for words in (each.split() for each in ANALOGIES):
            if set(words) <= set(row_of):
                rows = np.array([row_of[word] for word in words])
                vectors, allowed = normalised(centred[rows]), np.ones(len(self.words), bool)
                allowed[rows] = False
                found = top_k([(vectors[1:2] - vectors[0:1] + vectors[2:3], centred)], 4, True, allowed)[0][0]
                print(f"  {words[0]} : {words[1]} = {words[2]} : {', '.join(self.words[row] for row in found)}")


def scores(questions: Questions, target: np.ndarray, context: np.ndarray) -> dict[str, float]:
    """MRR by each reading."""
    return {name: float((1 / ranks).mean()) for name, ranks in questions.ranks_by_readings(target, context).items()}


def beside_gensim(text: Text, seeds: tuple[int, ...], tried: slice) -> dict[str, float]:
    """mrr_vs_gensim with what is behind it, and our PIP losses at the preset's own rate; prints every rate tried."""
    ways = {
        "gensim, texts": lambda rate, seed: text.gensim(rate, seed, as_pairs=False),
        "gensim, pairs": lambda rate, seed: text.gensim(rate, seed, as_pairs=True),
        "ours": text.ours,  # last: its last checkpoint is shown
    }
    found = {}
    for name, way in ways.items():
        tries = list(_validated(text, name, way, tried))
        best, reading, rate, of_first_seed = max(tries, key=lambda tried: tried[0])
        runs = []
        for seed in seeds:
            target, context, seconds, pip = way(rate, seed) if seed else of_first_seed
            of_test = scores(text.test, target, context)
            runs.append((of_test[reading], of_test["target-target cosine"], of_test["target.context"], seconds, pip))
        mrrs = [run[0] for run in runs]
        found[name] = float(np.mean(mrrs))
        cosine, product, seconds = np.mean([run[1:4] for run in runs], axis=0)
        spread = f"{min(mrrs):.4f} to {max(mrrs):.4f}"
        print(f"{name}: rate {rate}, {reading}: test MRR {found[name]:.4f} ({spread}; validation {best:.4f}); ", end="")
        print(f"target cosine {cosine:.4f}, target.context {product:.4f}; {seconds:.1f} CPU-s; PIP loss {pip[-1]:.4f}", flush=True)
    losses = next(trained[3] for *_, rate, trained in tries if rate == text.config.learning_rate)  # of ours, the last of the ways
    floor = pip_loss(text.pairs, factorised(text.pairs, D)[0])
    print("PIP loss epoch by epoch, ours: " + ", ".join(f"{loss:.4f}" for loss in losses) + f"; SVD of SPPMI, D = {D}: {floor:.4f}")
    figures = {"mrr_vs_gensim": found["ours"] / max(found["gensim, texts"], found["gensim, pairs"]), "mrr": found["ours"]}
    return figures | {"pip_loss_first": losses[0], "pip_loss_last": losses[-1], "pip_loss_svd": floor}


def _validated(text: Text, name: str, way, tried: slice):
    # (MRR, reading, rate, what was trained) of each rate by its best reading
    for rate in RATES[name][tried]:
        target, context, seconds, _ = trained = way(rate, 0)
        of_rate = scores(text.validation, target, context)
        reading = max(of_rate, key=of_rate.get)
        print(f"  {name}, rate {rate}: {reading} {of_rate[reading]:.4f}, target cosine {of_rate['target-target cosine']:.4f}, ", end="")
        print(f"target.context {of_rate['target.context']:.4f} on validation; {seconds:.1f} CPU-s", flush=True)
        yield of_rate[reading], reading, rate, trained


def table(text: Text) -> None:
    """Print sgns_pytorch's table: model, embedding, batch, time per epoch, lowest PIP loss; rnn: rows from the letters of the words."""
    print("\n| model | embedding | batch | time per epoch (CPU-s) | lowest PIP loss | SVD |\n|---|---|---|---|---|---|")
    floors = {dimensions: pip_loss(text.pairs, factorised(text.pairs, dimensions)[0]) for dimensions, _ in TABLE}
    for dimensions, batch in TABLE:
        how = dict(dimensions=dimensions, batch_pairs=batch, engine="torch", optimizer="rowwise_adagrad", epochs=TABLE_EPOCHS)
        *_, seconds, losses = text.ours(TABLE_RATE, 0, **how)  # plain SGD would sum up all of a frequent word's pairs in a batch
        line = f"| sgns | {dimensions} | {batch:,} | {seconds / TABLE_EPOCHS:.1f} | {min(losses[1:]):.4f} | {floors[dimensions]:.4f} |"
        print(line, flush=True)
    some = SomePairs(text.source, RNN_PAIRS)
    for dimensions, batch in TABLE:
        seconds, losses = rnn(text, some, dimensions, batch)
        line = f"| rnn | {dimensions} | {batch:,} | {seconds / TABLE_EPOCHS * text.source.pairs / some.pairs:.0f} (of a whole epoch, "
        print(line + f"from {some.pairs:,} pairs) | {min(losses):.4f} | {floors[dimensions]:.4f} |", flush=True)


class SomePairs(PairSource):
    """About the first `pairs` pairs of each epoch of another source, as one block."""

    def __init__(self, source: PairSource, pairs: int):
        self.source, self.seed, self.papers, self.blocks = source, source.seed, source.papers, 1
        self.most_pairs = self.pairs = min(pairs, len(source.block(0, 0)[0]))

    def _fill_block(self, epoch, block, targets, contexts):
        found = self.source.block(epoch, 0)
        size = min(self.pairs, len(found[0]))
        targets[:size], contexts[:size] = (ids[:size] for ids in found)
        return size


def rnn(text: Text, source: PairSource, dimensions: int, batch: int) -> tuple[float, list[float]]:
    """(CPU-seconds, PIP loss by epoch) of the title encoder, whose titles are the words, from random weights."""
    watched = [0.0]

    def watch(encoder):
        begun = time.process_time()
        loss = pip_loss(text.pairs, embed(encoder, text.words)[0])
        watched[0] += time.process_time() - begun
        return {"pip_loss": loss}

    start = time.process_time()
    encoder = TitleEncoder(dimensions)
    log = _quietly(fit, encoder, text.words, source, text.pairs.noise, epochs=TABLE_EPOCHS, batch_pairs=batch, evaluate=watch)
    return time.process_time() - start - watched[0], [row["pip_loss"] for row in log]
