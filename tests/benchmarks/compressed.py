"""Tables in a pool of floats beside full ones: time a step by optimiser, batch and pool; held-out MRR against bytes; PMI factorised.

Times: a model of one table looks up B pairs, and their products are fitted to random numbers (the form and the columns of the table in
github.com/victor-paltz/compressed-embeddings); forward, gradient and update apart, stock torch.optim, the full table a stock dense
`nn.Embedding`. Where the two are compared, they take their steps in turn. Quality: tests/protocols.py, D = 128 where nothing else is
said, settings chosen on validation citations (`python -m tests.benchmarks.compressed hepth acl` prints what was tried).
"""

import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.sparse as sp
import scipy.sparse.linalg
import torch
from torch import nn

from helpers.export.embeddings import dequantised, quantised
from helpers.models.compressed import CompressedEmbedding, Factors, fit, pair_entries
from helpers.models.smoothing import fill_start
from helpers.pairs.noise import alias_table
from tests import protocols, real_data

FIGURES = Path(__file__).parent / "figures"
N, D = 1_000_000, 100  # of what is timed
POOL, BATCH = 262_144, 32_768
BATCHES = (64, 4096, BATCH)
POOLS = (1, 64, 4096, POOL, 1 << 22, N * D)
OPTIMISERS = {
    "sgd": lambda values: torch.optim.SGD(values, lr=0.01),
    "adagrad": lambda values: torch.optim.Adagrad(values, lr=0.05),
    "adam": lambda values: torch.optim.Adam(values, lr=0.001),
}
STAGES = ("forward_pass_ms", "gradient_computation_ms", "backward_pass_ms")  # as the seed names them: the last one is the update


class Timed:
    """A table with an optimiser, and the milliseconds of its steps by stage; pool None: a full one."""

    def __init__(self, pool: int | None, optimizer: str):
        self.pool, self.name = pool, optimizer
        self.table = CompressedEmbedding(N, D, max(2, pool)) if pool else nn.Embedding(N, D)
        if pool == 1:  # which is refused
            self.table.pool = nn.Parameter(torch.randn(1))
        self.optimizer, self.seconds = OPTIMISERS[optimizer](self.table.parameters()), []

    def step(self, ids: torch.Tensor, wanted: torch.Tensor) -> None:
        """A step on pairs int64 (B, 2) and their wanted products float32 (B,), clocked."""
        clock = [time.perf_counter()]
        left, right = self.table(ids).unbind(1)
        loss = nn.functional.mse_loss((left * right).sum(dim=1), wanted)
        clock.append(time.perf_counter())
        self.optimizer.zero_grad()
        loss.backward()
        clock.append(time.perf_counter())
        self.optimizer.step()
        self.seconds.append(np.diff([*clock, time.perf_counter()]))

    def line(self, batch: int) -> dict:
        """The steps after the first one as a line of the CSV: medians."""
        size = 4 * sum(values.numel() for values in self.table.parameters())
        medians = dict(zip(STAGES, 1e3 * np.median(self.seconds[1:], axis=0), strict=True))
        model = "CompressedEmbTableModel" if self.pool else "FullEmbTableModel"
        return {"Model": model, "batch_size": batch, "memory_size": self.pool, **medians, "model size": size, "optimizer": self.name}


def timed(sides: list[Timed], batch: int, steps: int) -> list[dict]:
    """Lines of the CSV: all sides take their steps in turn, on the same pairs; the first step is not counted."""
    for _ in range(1 + steps):
        ids, wanted = torch.randint(N, (batch, 2)), torch.rand(batch)
        for side in sides:
            side.step(ids, wanted)
    return [side.line(batch) for side in sides]


def step_ms(line: dict) -> float:
    """The whole step."""
    return sum(line[stage] for stage in STAGES)


def times(quick: bool, csv: str | None) -> dict[str, float]:
    """{optimiser}_ratio at the headline's size; unless quick, every batch and pool into the CSV, and their figure; prints the table."""
    figures, lines = {}, []
    for name in OPTIMISERS:
        full, small = timed([Timed(None, name), Timed(POOL, name)], BATCH, 3)
        figures[f"{name}_ratio"] = step_ms(small) / step_ms(full)
        lines += [full, small]
        for batch in () if quick else BATCHES:
            for pool in (None, *POOLS):
                if batch != BATCH or pool not in (None, POOL):
                    lines += timed([Timed(pool, name)], batch, 2)
    table = pd.DataFrame(lines).sort_values(["optimizer", "Model", "batch_size", "memory_size"], ascending=[True, False, True, True])
    table["memory_size"] = table["memory_size"].astype("Int64")
    print(table.to_string(index=False, float_format="{:.2f}".format), flush=True)
    if csv:
        table.to_csv(csv, index=False)
    if not quick:
        draw_times(table)
    return figures


def draw_times(table: pd.DataFrame) -> None:
    """figures/compressed_times.png: a step's time against the pool, a panel an optimiser, a colour a batch, full tables dashed."""
    figure, panels = plt.subplots(1, len(OPTIMISERS), figsize=(11, 3.8), layout="constrained", sharey=True)
    figure.suptitle(f"A step with {N:,} x {D} values in a pool (lines) and in a full table (dashed)")
    for axes, name in zip(panels, OPTIMISERS, strict=True):
        for batch, colour in zip(BATCHES, ("#a9b4bd", "#2a6f97", "#d1495b"), strict=True):
            own = table[(table["optimizer"] == name) & (table["batch_size"] == batch)]
            own = own.assign(step=own[list(STAGES)].sum(axis=1))
            pools = own[own["memory_size"].notna()]
            axes.plot(pools["memory_size"].astype(float), pools["step"], "o-", markersize=3, color=colour, label=f"{batch:,} pairs")
            axes.axhline(own.loc[own["memory_size"].isna(), "step"].iloc[0], color=colour, linestyle="--", linewidth=1)
        axes.set(title=name, xscale="log", yscale="log", xlabel="floats in the pool")
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("milliseconds a step")
    panels[0].legend(fontsize=8)
    FIGURES.mkdir(exist_ok=True)
    figure.savefig(FIGURES / "compressed_times.png", dpi=110)
    plt.close(figure)


SETS = ("hepth", "acl")
FULL, EPOCHS, BIAS = 128, 5, -1.6  # dimensions; epochs of every training; where the biases start: log (1 / K), what a pair's odds are
SHARES = {"half": 1 / 2, "one_eighth": 1 / 8, "one_sixty_fourth": 1 / 64}  # of a full table's values, in the pool
SMALLER = (64, 16)  # dimensions of smaller full tables
NAMES = ("full", *SHARES, *(f"d{dimensions}" for dimensions in SMALLER), "pmi", "svd")
# Adam's rate for each table: the best of three neighbours in RATES on ACL's validation citations
RATES = (0.001, 0.003, 0.01, 0.03)
RATE = {"full": 0.003, "half": 0.01, "one_eighth": 0.003, "one_sixty_fourth": 0.003, "d64": 0.01, "d16": 0.03, "pmi": 0.001}
Tables = tuple[np.ndarray, np.ndarray]


def start_of(split: protocols.Split, dimensions: int) -> torch.Tensor:
    """The warm start of `helpers run`, float32 (N, D)."""
    rows = np.empty((2, split.papers, dimensions), np.float32)
    fill_start(split.indptr, split.contexts, *rows, None, 1.0, np.random.default_rng(0))
    return torch.from_numpy(rows[0])


def averaged(table: CompressedEmbedding, start: torch.Tensor) -> torch.Tensor:
    """The pool float32 (M,) that is nearest to rows float32 (N, D) by squares: the mean of the values that share a float."""
    places, signs = (of.flatten() for of in table.places(torch.arange(len(start))))
    sums, counts = (torch.bincount(places, weights, len(table.pool)) for weights in (start.flatten() * signs, None))
    return (sums / counts.clamp(min=1)).float()


def trained(split: protocols.Split, name: str, rate: float | None = None, loss: str = "sgns") -> Tables:
    """Both tables, float32 (N, D), after EPOCHS of Adam; name: full, d64, d16, or one of SHARES; from the same warm start."""
    torch.manual_seed(0)
    dimensions = int(name[1:]) if name[1:].isdigit() else FULL
    start = start_of(split, dimensions)
    if name in SHARES:
        tables = [CompressedEmbedding(*start.shape, int(start.numel() * SHARES[name]), salt=salt) for salt in (0, 1)]
        for table in tables:
            table.pool.data = averaged(table, start)
    else:
        tables = [nn.Embedding.from_pretrained(start.clone(), freeze=False) for _ in range(2)]
    entries = pair_entries(split.indptr, split.contexts, logs=loss == "sgns")  # of all pairs for SGNS, which takes no values
    model = Factors(*tables, biases=BIAS if loss == "sgns" else 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate or RATE["pmi" if loss == "square" else name], fused=True)
    losses = fit(model, entries, alias_table(np.diff(split.indptr), 0.5), optimizer, loss, EPOCHS, batch=4096)
    print(f"  {name} {loss}: loss a pair {', '.join(f'{value:.3f}' for value in losses)}", flush=True)
    with torch.no_grad():
        return tuple(table(torch.arange(split.papers)).numpy() for table in tables)


def mrr(tables: Tables, split: protocols.Split) -> float:
    """The best reading's."""
    return max(found["mrr"] for found in protocols.link_mrr(*tables, None, split).values())


def svd(split: protocols.Split) -> Tables:
    """Truncated singular value decomposition of the same SPPMI matrix, each side weighed by the values' roots."""
    targets, contexts, values, _ = (of.numpy() for of in pair_entries(split.indptr, split.contexts))
    matrix = sp.csr_matrix((values, (targets, contexts)), shape=(split.papers,) * 2)
    left, values, right = scipy.sparse.linalg.svds(matrix, FULL, random_state=0)
    return left * np.sqrt(values), right.T * np.sqrt(values)


def measured(split: protocols.Split, name: str) -> dict[str, tuple[float, float]]:
    """(test MRR, bytes of both tables) of one of NAMES; and of the same tables as float16 and int8, where they are full."""
    if name == "svd":
        tables = svd(split)
    else:
        tables = trained(split, "full", loss="square") if name == "pmi" else trained(split, name)
    values, plain = 2 * tables[0].size, name == "full" or name[1:].isdigit()
    found = {name: (mrr(tables, split), 4 * values * SHARES.get(name, 1))}
    if plain:
        ending = "" if name == "full" else f"_{name}"
        found[f"fp16{ending}"] = mrr([table.astype(np.float16).astype(np.float32) for table in tables], split), 2 * values
        found[f"int8{ending}"] = mrr([dequantised(*quantised(table)) for table in tables], split), values + 8 * len(tables[0])
    for of, (score, size) in found.items():
        print(f"  {of:<18} MRR {score:.4f}  {size / 1e6:8.3f} MB", flush=True)
    return found


def quality(sets: tuple[str, ...]) -> dict[str, float]:
    """mrr_* of cit-HepTh and acl_mrr_*: the tables of NAMES on the test splits; and the figure."""
    points = {}
    for of_set in sets:
        split = protocols.load(of_set, "test")
        print(f"{of_set}: {split.papers:,} papers, {len(split.contexts):,} pairs an epoch, {len(split.questions):,} asked", flush=True)
        points[of_set] = {key: value for name in NAMES for key, value in measured(split, name).items()}
    draw_quality(points)
    return {
        f"{'' if of_set == 'hepth' else of_set + '_'}mrr_{name}": score
        for of_set, found in points.items()
        for name, (score, _) in found.items()
    }


def draw_quality(points: dict[str, dict[str, tuple[float, float]]]) -> None:
    """figures/compressed_quality.png: test MRR against the bytes of both tables, a panel a set."""
    lines = {
        "compressed, float32": ("#d1495b", ["full", *SHARES]),
        "fewer dimensions, float32": ("#8fb8d0", ["full", "d64", "d16"]),
        "float16, of those": ("#e09f3e", ["fp16", "fp16_d64", "fp16_d16"]),
        "int8, of those": ("#2a6f97", ["int8", "int8_d64", "int8_d16"]),
    }
    figure, panels = plt.subplots(1, len(points), figsize=(10, 3.8), layout="constrained")
    for axes, (of_set, found) in zip(panels, points.items(), strict=True):
        for label, (colour, names) in lines.items():
            axes.plot([found[name][1] / 1e6 for name in names], [found[name][0] for name in names], "o-", color=colour, label=label)
        title = {"hepth": "cit-HepTh", "acl": "ACL"}[of_set]
        axes.set(title=title, xscale="log", xlabel="MB of both tables", ylabel="held-out MRR, best reading", ylim=(0, None))
        axes.grid(alpha=0.25)
    panels[0].legend(fontsize=8)
    FIGURES.mkdir(exist_ok=True)
    figure.savefig(FIGURES / "compressed_quality.png", dpi=110)
    plt.close(figure)


def run(quick: bool = False, csv: str | None = None) -> dict[str, float]:
    """{sgd,adagrad,adam}_ratio, compressed over full; with PAPER_DATA, unless quick, mrr_* (cit-HepTh) and acl_mrr_*."""
    figures = times(quick, csv)
    if quick or real_data.paper_data() is None:
        print(
            "Quality against bytes is left out: "
            + ("it takes minutes." if quick else "set PAPER_DATA to the folder of real citation data.")
        )
        return figures
    return figures | quality(SETS)


if __name__ == "__main__":
    for of_set in sys.argv[1:]:
        validation = protocols.load(of_set, "validation")
        for table in RATE:
            way = {"name": "full", "loss": "square"} if table == "pmi" else {"name": table}
            for tried in RATES:
                print(f"{of_set} validation, {table}, {tried}: {mrr(trained(validation, rate=tried, **way), validation):.4f}", flush=True)
