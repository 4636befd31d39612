"""Many devices: pages beside one table; ranks beside one process, on cit-HepTh by date; bytes on the loopback, PIP loss, resuming."""

import contextlib
import csv
import dataclasses
import io
import shutil
import tempfile
from pathlib import Path

import numpy as np
import psutil
import torch

from helpers.config import SAMPLE, Config
from helpers.corpus.build import build_corpus
from helpers.neighbors.evaluate import validation_scores
from helpers.pairs.build import Pairs, build_pairs
from helpers.rows.pages import PagedEmbedding
from tests import ranks, real_data

D, SEEDS = 128, (0, 1)
WAYS = {  # (model, nodes, sync, ranks): arguments
    ("shards", 1, "sync", 1): (),
    ("shards", 1, "sync", 2): (),
    ("shards", 2, "sync", 2): (),
    ("replicas, DDP", 1, "sync", 2): ("--replicas",),
    ("replicas, mean every 8 steps", 1, "async", 2): ("--replicas", "--average-every", "8"),
    ("replicas, mean every 64 steps", 1, "async", 2): ("--replicas", "--average-every", "64"),
}
ONE, TWO, _, _, LOCAL, _ = WAYS


def paged_difference() -> float:
    """The largest difference from `nn.Embedding`, forward, backward and after 20 steps of Adagrad, of LargeEmbedding's documented table."""
    torch.manual_seed(0)
    devices = [(0, 1), (0, 3), 4, 5, 6]
    paged = PagedEmbedding(n_words=50_000, dim_word=4, page_size=10_000, use_cuda=False, device_list=devices)
    plain = torch.nn.Embedding.from_pretrained(torch.cat([page.weight for page in paged.embeddings]).detach(), freeze=False)
    trained = [torch.optim.Adagrad(model.parameters(), lr=0.1) for model in (paged, plain)]
    generator, worst = torch.Generator().manual_seed(1), 0.0
    for _ in range(20):
        words, weights = torch.randint(50_000, (2, 500), generator=generator), torch.randn(2, 500, 4, generator=generator)
        words[:, :100] = 30_100
        rows = [paged(words), plain(words)]
        for optimiser, found in zip(trained, rows, strict=True):
            optimiser.zero_grad()
            (found * weights).sum().backward()
        gradient = torch.cat([page.weight.grad for page in paged.embeddings])
        for optimiser in trained:
            optimiser.step()
        whole = torch.cat([page.weight for page in paged.embeddings])
        worst = max(worst, *(float((a - b).detach().abs().max()) for a, b in (rows, (gradient, plain.weight.grad), (whole, plain.weight))))
    mirrors = [float((held - page.weight).detach().abs().max()) for page in paged.embeddings for held in page.copies]
    return max(worst, *mirrors)


def train(run: Path, way: tuple, *arguments: str) -> int:
    """Train from the beginning; returns the bytes that went over the loopback meanwhile."""
    _, nodes, _, number = way
    shutil.rmtree(run / "distributed", ignore_errors=True)
    before = psutil.net_io_counters(pernic=True)["lo"].bytes_sent
    if nodes == 1:
        ranks.trained(run, number, *arguments)
    else:
        address = "--nproc-per-node", str(number // nodes), "--master-addr", "127.0.0.1", "--master-port", ranks.free_port()
        of_nodes = [("--nnodes", str(nodes), "--node-rank", str(node), *address) for node in range(nodes)]
        ranks.wait_for([ranks.launch(run, *arguments, launcher=node) for node in of_nodes])
    return psutil.net_io_counters(pernic=True)["lo"].bytes_sent - before


def run(quick: bool = False) -> dict[str, float] | None:
    """Largest differences from one table or one process, MRR beside one rank's (two seeds), and the table of all ways.

    quick, or without PAPER_DATA: half of the sample, D = 16, one seed, and only what the figures need.
    """
    small, told, ways = quick or real_data.paper_data() is None, ranks.missing(), dict(WAYS)
    if told:
        print(f"{told}\nSo replicas stand for shards in what follows.\n")
        ways |= dict.fromkeys((ONE, TWO), WAYS["replicas, DDP", 1, "sync", 2])
    tried = (ONE, TWO, LOCAL) if small else [way for way, arguments in ways.items() if arguments or not told]
    figures = {"paged_max_difference": paged_difference()}
    with tempfile.TemporaryDirectory() as folder:
        out, seeds = Path(folder) / "run", SEEDS[:1] if small else SEEDS
        preset, of = (
            ("sample", {"dumps": SAMPLE[:1]}) if small else ("cs", {"dumps": real_data.cit_hepth(Path(folder)), "heldout_after": 2000})
        )
        settings = {"dimensions": 16 if small else D, "epochs": 1, "row_type": "float32"}
        config = Config.of_preset(preset, out=out, subset="all", **of, **settings)
        with contextlib.redirect_stdout(io.StringIO()):
            build_corpus(config)
            build_pairs(config)
        pairs, scores = Pairs(config), {way: [] for way in tried}
        evaluate = validation_scores(pairs, most=4000)
        arguments = ("--preset", preset, "--dimensions", str(config.dimensions), "--epochs", "1")
        few = (*arguments, "--dimensions", "16", "--shared-negatives", "32")  # the plain model has them all for each pair
        train(out, TWO, *ways[TWO], *few)
        first = ranks.tables(out)
        expected, steps = ranks.by_one_process(dataclasses.replace(config, dimensions=16, shared_negatives=32), 2)
        print(f"{steps} joint steps beside one process's; then one and three ranks take the checkpoint up\n")
        figures["ranks2_max_difference"] = ranks.largest_difference(first, expected)
        for number in (1, 3):
            shutil.rmtree(out / "distributed" / "checkpoints")
            figures[f"resumed_{number}_max_difference"] = ranks.largest_difference(ranks.trained(out, number, *ways[TWO], *few), first)
        print("".join(f"{name} {value:.2g}\n" for name, value in figures.items()))
        print("| model | nodes | sync | ranks | D | batch | s an epoch | PIP loss | MRR | MB exchanged |")
        print("|---" * 10 + "|")
        for seed in seeds:
            for way in tried if seed == 0 else (ONE, TWO, LOCAL):
                sent = train(out, way, *ways[way], *arguments, "--seed", str(seed))
                found = evaluate(*ranks.tables(out)[:2])
                scores[way].append(found["mrr"])
                with open(out / "distributed" / "log.csv") as file:
                    seconds = float(list(csv.DictReader(file))[-1]["seconds"])
                shape = config.dimensions, ranks.distributed.batch_size(config, len(pairs.contexts))
                measured = f"{seconds:.0f}", f"{found['pip_loss']:.3f}", f"{found['mrr']:.4f}", f"{sent / 1e6:.0f}"
                print(f"| {' | '.join(map(str, (*way, *shape, *measured)))} |", flush=True)
        ratio = {way: float(np.mean(scores[way]) / np.mean(scores[ONE])) for way in (TWO, LOCAL)}
        figures |= {"ranks2_mrr_vs_one": ratio[TWO], "local_sgd_mrr_vs_one": ratio[LOCAL]}
    return figures
