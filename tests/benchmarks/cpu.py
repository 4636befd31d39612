"""Training on two CPU cores beside gensim and torch: rate, quality after as many epochs, time to quality, the memory's limit.

Rates are 2 x pairs / CPU-seconds (what two free cores would do) and by the wall clock; gensim's is its marginal rate (tests/peers.py).
The cost of one epoch's arrangement is counted on our side, compilation is not (numba keeps it). Quality: means over seeds, each with a
graph or a split of its own, of every reading; of each side the best reading counts. On the planted graph both sides are also read at
reach 4 (what reading at reach 0 alone gives is printed beside it). Curves, all at reach 0, count CPU-seconds of training, for us with the
warm start, for gensim without its vocabulary. gensim's settings are those that did best on validation citations (RESULTS.md).
"""

import dataclasses
import gc
import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
import numba
import numpy as np

from helpers.config import Config
from helpers.models import kernels
from helpers.models.smoothing import smooth_trained
from helpers.neighbors.evaluate import Questions, readings
from helpers.pairs.noise import alias_table
from helpers.prefetch import prefetch_row
from helpers.rows.files import Float32Rows, as_stored
from helpers.training.engines import KernelEngine, new_tables
from helpers.training.loop import rate_of
from tests import protocols, real_data
from tests.peers import TORCH_OPTIMISERS, Rate, clocks, gensim_rate, gensim_train, torch_rate
from tests.planted import planted

FIGURES = Path(__file__).parent / "figures"
SMALL, LARGE, HUGE = 200_000, 2_150_127, 15_000_000  # papers
SEEDS = (0, 1, 2)
EPOCHS = {"planted": 5, "hepth": 10}  # on both sides; 10 is the default of `helpers run`
D = 128
ONE_EPOCH_RATE = 0.02  # where there is one epoch alone, a gentle one: the default rate is for ten
GENSIM = {"planted": dict(alpha=0.25, initial_scale=10, noise_power=0.5), "hepth": dict(alpha=0.125, initial_scale=20, noise_power=0.5)}
CURVE_QUESTIONS = 3000
REACH = 4  # the second reach at which the planted graph's tables are read, ours and gensim's alike
POINTS = 4  # of our curve an epoch
AHEAD = 16  # rows
MOST_PAIRS = 25_000_000  # a rate is measured on no more

Scores = dict[str, np.ndarray]  # reading -> (MRR, hits@10), float64 (2,)
Score = Callable[[np.ndarray, np.ndarray], Scores]


def run(quick: bool = False) -> dict[str, float]:
    """The figures of issue 4, the rates behind them, and peak_rss_gb; `quick` measures one rate and the quality of a small graph alone."""
    our_training(settings(8, epochs=1), planted(5_000))  # compiled, or read from numba's cache
    if quick:
        figures = rate_figures("d128_n200k", planted(SMALL), D, fed=(50_000, 250_000))
        ours, others, _ = planted_quality(20_000, SEEDS[:1], questions=CURVE_QUESTIONS)
        return figures | quality_ratios("planted_20k", ours, others)
    figures, rates = {}, {}
    pairs = planted(SMALL)
    figures |= rate_figures("d128_n200k", pairs, D) | torch_figures(pairs)
    rates[SMALL] = our_rate(settings(64), pairs)
    curves = {}
    compared = {"planted": lambda: planted_quality(SMALL, SEEDS), "hepth": lambda: hepth_quality(SEEDS)}
    if real_data.paper_data() is None:
        print("cit-HepTh is left out: set PAPER_DATA to the folder of real citation data.")
        del compared["hepth"]
    for name, sides in compared.items():
        ours, others, curves[name] = sides()
        figures |= quality_ratios(name, ours, others) | time_figures(name, curves[name])
    figures["time_to_quality_vs_gensim"] = min(figures[f"{name}_time_to_quality_vs_gensim"] for name in curves)
    draw_curves(curves)
    pairs = planted(LARGE)
    figures |= large_figures(pairs)
    rates[LARGE] = our_rate(settings(64), pairs)
    del pairs
    gc.collect()
    rates[HUGE] = our_rate(settings(64), planted(HUGE, validation=0))
    for N, rate in rates.items():
        figures[f"d64_n{N // 1000}k_pairs_per_s"] = rate.cpu
    draw_rates(rates)
    return figures | {"peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


def settings(dimensions: int, **changes) -> Config:
    """The defaults of `helpers run`, on two threads."""
    return Config.of_preset("cs", **{"dimensions": dimensions, "epochs": EPOCHS["planted"], "threads": 2, "device": "cpu", **changes})


@dataclasses.dataclass
class Training:
    """Our tables after training, and what they took: (CPU-seconds, wall seconds) of the warm start and of all the pairs."""

    engine: KernelEngine
    start: np.ndarray
    blocks: np.ndarray
    pairs: int

    @property
    def tables(self) -> tuple[Float32Rows, Float32Rows]:
        """Target and context, float32 (N, D) when read."""
        return Float32Rows(as_stored(self.engine.target)), Float32Rows(as_stored(self.engine.context))

    @property
    def rate(self) -> Rate:
        return Rate(2 * self.pairs / self.blocks[0], self.pairs / self.blocks[1], self.pairs)


def our_training(config: Config, pairs, on_point: Callable[[Training], None] | None = None, most_pairs: float = np.inf) -> Training:
    """Train as `helpers run` does, on every pair or the first of them; on_point: called after the warm start and POINTS times an epoch."""
    begun = clocks()
    tables = new_tables(config, pairs.indptr, pairs.contexts)
    start = clocks() - begun
    engine = KernelEngine(config, pairs.indptr, pairs.contexts, noise_of(pairs, config.noise_power), *tables)
    done, total, blocks = Training(engine, start, np.zeros(2), 0), config.epochs * engine.blocks.pairs, engine.blocks.blocks
    shown = {round((i + 1) * blocks / POINTS) - 1 for i in range(POINTS)}
    if on_point:
        on_point(done)
    for epoch in range(config.epochs):
        for block in range(blocks):
            begun = clocks()
            trained = engine.train_block(epoch, block, rate_of(config, done.pairs, total))
            done.blocks, done.pairs = done.blocks + clocks() - begun, done.pairs + trained
            if on_point and block in shown:
                on_point(done)
            if done.pairs >= most_pairs:
                return done
    return done


def noise_of(pairs, power: float) -> np.ndarray:
    """The alias table of training degree ** power, ALIAS (N,)."""
    return alias_table(np.diff(pairs.indptr), power)


def our_rate(config: Config, pairs) -> Rate:
    """Our rate from a cold start: what lies in the rows does not change the work."""
    rate = our_training(dataclasses.replace(config, warm_start=()), pairs, most_pairs=MOST_PAIRS).rate
    print(f"ours, N = {pairs.papers:,}, D = {config.dimensions}: {rate_line(rate)}", flush=True)
    return rate


def rate_line(rate: Rate) -> str:
    return f"{rate.cpu / 1e6:.3f} M pairs/s of two free cores, {rate.wall / 1e6:.3f} by the wall ({rate.pairs:,} pairs)"


def rate_figures(
    name: str, pairs, dimensions: int, ours: Rate | None = None, fed: tuple[int, int] = (100_000, 600_000)
) -> dict[str, float]:
    """{name}_vs_gensim and both rates; ours: where it was measured already."""
    ours = ours or our_rate(settings(dimensions), pairs)
    others = gensim_rate(pairs, dimensions, fed=fed)
    print(f"gensim, N = {pairs.papers:,}, D = {dimensions}: {rate_line(others)}", flush=True)
    return {
        f"{name}_vs_gensim": ours.cpu / others.cpu,
        f"{name}_wall_vs_gensim": ours.wall / others.wall,
        f"{name}_pairs_per_s": ours.cpu,
        f"{name}_gensim_pairs_per_s": others.cpu,
    }


def torch_figures(pairs) -> dict[str, float]:
    """d128_n200k_vs_torch_*: our rate over that of torch's sparse embeddings with SGD and with SparseAdam."""
    ours, figures = our_rate(settings(D), pairs), {}
    for name in TORCH_OPTIMISERS:
        rate = torch_rate(pairs, D, name)
        print(f"torch nn.Embedding(sparse=True), {name}, N = {pairs.papers:,}, D = {D}: {rate_line(rate)}", flush=True)
        figures |= {f"d128_n200k_vs_torch_{name.lower()}": ours.cpu / rate.cpu, f"torch_{name.lower()}_pairs_per_s": rate.cpu}
    return figures


class Curves:
    """MRR (the best reading) against CPU-seconds of training, ours and gensim's."""

    def __init__(self, score: Score):
        self.score, self.ours, self.gensim = score, [], []

    def add_ours(self, training: Training) -> None:
        self.ours.append((training.start[0] + training.blocks[0], best_mrr(self.score(*training.tables))))

    def add_gensim(self, epoch: int, seconds: float, target: np.ndarray, context: np.ndarray) -> None:
        self.gensim.append((seconds, best_mrr(self.score(target, context))))


def best_mrr(scores: Scores) -> float:
    return max(float(score[0]) for score in scores.values())


def planted_score(pairs, most: int | None = None, reaches: tuple[int, ...] = (0,)) -> Score:
    """MRR and hits@10 of every reading, of every reach, on the held-out citations, or the first of them."""
    questions = Questions(pairs, pairs.heldout[:most])

    def score(target, context):
        scores = {}
        for reach in reaches:
            tables = [with_reach(pairs, table, reach) for table in (target, context)]
            for name, found in questions.ranks(readings(*tables), target.shape[1]).items():
                scores[name + f", reach {reach}" * bool(reach)] = np.array([(1 / found).mean(), (found <= 10).mean()])
        return scores

    return score


def with_reach(pairs, table, reach: int) -> np.ndarray:
    """The table (N, D) as it is read with a reach, at length 1: half of the candidates are drawn by degree, which lengths would favour."""
    if not reach:
        return table
    return protocols.unit(np.concatenate([block for _, block in smooth_trained(pairs.indptr, pairs.contexts, table, reach)], axis=1))


def hepth_score(split) -> Score:
    """The same on the test citations of cit-HepTh, each among all earlier papers."""

    def score(target, context):
        found = protocols.link_mrr(target[:], context[:], None, split)
        return {name: np.array([scores["mrr"], scores["hits@10"]]) for name, scores in found.items()}

    return score


def planted_quality(N: int, seeds: tuple[int, ...], questions: int | None = None) -> tuple[list[Scores], list[Scores], Curves]:
    """Scores a seed of both sides on planted graphs of N papers, and their curves with the first seed."""
    ours, others, curves = [], [], None
    for seed in seeds:
        pairs = planted(N, seed)
        drawn = Curves(planted_score(pairs, CURVE_QUESTIONS)) if seed == seeds[0] else None
        compare("planted", pairs, seed, planted_score(pairs, questions, (0, REACH)), drawn, ours, others)
        curves = drawn or curves
    return ours, others, curves


def hepth_quality(seeds: tuple[int, ...]) -> tuple[list[Scores], list[Scores], Curves]:
    """Scores a seed of both sides on cit-HepTh by date, and their curves with the first seed."""
    ours, others, curves = [], [], None
    for seed in seeds:
        split = protocols.load("hepth", "test", seed)
        drawn = Curves(hepth_score(split)) if seed == seeds[0] else None
        compare("hepth", split, seed, hepth_score(split), drawn, ours, others)
        curves = drawn or curves
    return ours, others, curves


def compare(name: str, pairs, seed: int, score: Score, curves: Curves | None, ours: list, others: list) -> None:
    """Train both sides for as many epochs on the same pairs and append their scores."""
    epochs = EPOCHS[name]
    training = our_training(settings(D, epochs=epochs, seed=seed), pairs, curves.add_ours if curves else None)
    ours.append(score(*training.tables))
    peer = gensim_train(pairs, D, epochs, **GENSIM[name], seed=seed, on_epoch=curves.add_gensim if curves else None)
    others.append(score(peer.target, peer.context))
    print(
        f"N = {pairs.papers:,}, seed {seed}, {epochs} epochs: ours {training.start[0]:.1f} CPU-s warm start + {training.blocks[0]:.1f}, "
        f"gensim {sum(peer.epoch_seconds):.1f}",
        flush=True,
    )


def quality_ratios(name: str, ours: list[Scores], others: list[Scores]) -> dict[str, float]:
    """{name}_{mrr,hits}_vs_gensim and the scores behind them, means over the seeds, and the same at reach 0; prints every reading."""
    means = [{reading: np.mean([scores[reading] for scores in side], axis=0) for reading in side[0]} for side in (ours, others)]
    for reading in means[0]:
        (our_mrr, our_hits), (mrr, hits) = (side[reading] for side in means)
        print(f"{name}, {reading}: MRR ours {our_mrr:.4f}, gensim {mrr:.4f}; hits@10 {our_hits:.4f}, {hits:.4f}", flush=True)
    figures = {}
    for place, key in enumerate(("mrr", "hits")):
        best, gensim_best = (max(float(scores[place]) for scores in side.values()) for side in means)
        figures |= {f"{name}_{key}_vs_gensim": best / gensim_best, f"{name}_{key}": best, f"{name}_{key}_gensim": gensim_best}
        near, gensim_near = (max(float(scores[place]) for reading, scores in side.items() if "reach" not in reading) for side in means)
        figures |= {f"{name}_{key}_reach_0_vs_gensim": near / gensim_near}
    return figures


def time_figures(name: str, curves: Curves) -> dict[str, float]:
    """{name}_time_to_quality_vs_gensim: CPU-seconds until gensim's best MRR, gensim's over ours; 0 where we never reach it."""
    level = max(mrr for _, mrr in curves.gensim)
    ours, others = (next((seconds for seconds, mrr in side if mrr >= level), np.inf) for side in (curves.ours, curves.gensim))
    print(f"{name}: MRR {level:.4f}, gensim's best, after {others:.1f} CPU-s of gensim and {ours:.1f} of ours", flush=True)
    for side in ("ours", "gensim"):
        print(f"  {side}: " + ", ".join(f"{seconds:.1f} s {mrr:.3f}" for seconds, mrr in getattr(curves, side)), flush=True)
    return {f"{name}_time_to_quality_vs_gensim": others / ours}


def large_figures(pairs) -> dict[str, float]:
    """What is measured at N = LARGE: the warm start, one epoch's MRR, both rates, the memory's limit."""
    training = our_training(settings(D, epochs=1, learning_rate=ONE_EPOCH_RATE), pairs)
    print(f"ours, N = {pairs.papers:,}, D = {D}: warm start {training.start[0]:.1f} CPU-s, {training.start[1]:.1f} s")
    print(f"ours, N = {pairs.papers:,}, D = {D}, an epoch: {rate_line(training.rate)}", flush=True)
    scores = planted_score(pairs)(*training.tables)
    for reading, (mrr, hits) in scores.items():
        print(f"N = {pairs.papers:,}, one epoch, {reading}: MRR {mrr:.4f}, hits@10 {hits:.4f}")
    figures = {
        "mrr_2m_one_epoch": min(float(scores[reading][0]) for reading in ("target-target cosine", "target.context")),
        "warm_start_cpu_s_2m": float(training.start[0]),
    }
    rate, row_bytes, rows = training.rate, training.engine.target.element_size() * D, rows_a_pair(pairs, settings(D).negatives)
    del training
    gc.collect()
    limit = random_rows(pairs.papers, row_bytes)
    print(
        f"random rows of {row_bytes} bytes, read and written: {limit / 1e6:.1f} M a second, {2 * limit * row_bytes / 1e9:.1f} GB/s; "
        f"a pair touches {rows:.2f} rows, {2 * rows * row_bytes:,.0f} bytes",
        flush=True,
    )
    figures |= {"roofline_fraction": rate.cpu * rows / limit, "random_rows_per_s": limit, "bytes_per_pair": 2 * rows * row_bytes}
    figures |= rate_figures("d128_n2m", pairs, D, rate)
    gc.collect()
    return figures | rate_figures("d512_n2m", pairs, 512)


def rows_a_pair(pairs, negatives: int) -> float:
    """Rows that a pair reads and writes: its context, its negatives, and its share of the target's row, which a step reads once."""
    most = max(1, kernels.MOST_TERMS // (1 + negatives))
    steps = -(-np.diff(pairs.indptr) // most)
    return 1 + negatives + float(steps.sum() / len(pairs.contexts))


def random_rows(N: int, row_bytes: int, rows: int = 16_000_000, rounds: int = 3) -> float:
    """How many rows a second two free cores can read and write at random in two tables of N rows, and nothing else; the best round."""
    table, generator = np.empty((2 * N, row_bytes // 8), np.uint64), np.random.default_rng(0)
    table[:] = 0  # every page is there before the clock starts
    order, seconds = generator.integers(0, 2 * N, (2, rows // 2), dtype=np.int32), []
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda own: _sweep(table, own), order[:, :1000]))  # compiled
        for _ in range(rounds):
            start = time.process_time()
            list(pool.map(lambda own: _sweep(table, own), order))
            seconds.append(time.process_time() - start)
    return 2 * rows / min(seconds)


@numba.njit(nogil=True, cache=True)
def _sweep(table, order):
    """Change every word of the rows `order`, int32 (n,), of a table, uint64 (N, words)."""
    base, row_bytes = table.ctypes.data, table.shape[1] * 8
    for i in range(len(order)):
        if i + AHEAD < len(order):
            prefetch_row(base, order[i + AHEAD], row_bytes)
        row = table[order[i]]
        for j in range(len(row)):  # over a row of its own: vector instructions
            row[j] += np.uint64(1)


def draw_curves(curves: dict[str, Curves]) -> None:
    """figures/time_to_quality.png: MRR against CPU-seconds, a panel a data set."""
    titles = {"planted": f"Planted graph, N = {SMALL:,}", "hepth": "cit-HepTh by date"}
    figure, panels = plt.subplots(1, len(curves), figsize=(5 * len(curves), 3.8), layout="constrained", squeeze=False)
    for axes, (name, curve) in zip(panels[0], curves.items(), strict=True):
        for side, colour in (("ours", "#2a6f97"), ("gensim", "#d1495b")):
            axes.plot(*zip(*getattr(curve, side), strict=True), "o-", markersize=3, color=colour, label=side)
        axes.axhline(max(mrr for _, mrr in curve.gensim), color="#a9b4bd", linestyle="--", label="gensim's best")
        axes.set(title=titles[name], xscale="log", xlabel="CPU-seconds (ours with the warm start)", ylabel="held-out MRR, best reading")
        axes.grid(alpha=0.25)
        axes.legend()
    save(figure, "time_to_quality.png")


def draw_rates(rates: dict[int, Rate]) -> None:
    """figures/rate_by_papers.png: pairs a second against papers."""
    figure, axes = plt.subplots(figsize=(5.5, 3.8), layout="constrained")
    axes.plot(list(rates), [rate.cpu / 1e6 for rate in rates.values()], "o-", color="#2a6f97", label="2 x pairs / CPU-seconds")
    axes.plot(list(rates), [rate.wall / 1e6 for rate in rates.values()], "o--", color="#a9b4bd", label="by the wall clock")
    axes.set(title="Training rate, D = 64, planted graphs", xscale="log", xlabel="papers", ylabel="million pairs a second", ylim=(0, None))
    axes.grid(alpha=0.25)
    axes.legend()
    save(figure, "rate_by_papers.png")


def save(figure, name: str) -> None:
    FIGURES.mkdir(exist_ok=True)
    figure.savefig(FIGURES / name, dpi=110)
    plt.close(figure)
