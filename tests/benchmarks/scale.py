"""The flagship: 14.9 million papers x 188, 2.15 million x 512 and a table larger than the RAM, trained in the memory of a free Colab.

To be run under a memory cap of 12.7 GiB. Graphs with planted topics and a tail of papers with few citations (tests/planted.py) go through
notebooks 01 and 02's functions as edge lists and stay in `runs/scale/`; training is `helpers.training.loop.train`, each run in a process of
its own: warm start, one epoch of both directions, a checkpoint. `_rss_gb` is the resident peak, files in memory included; the plan is
held against the peak of what is not a file's (RssAnon), which alone cannot give way. MRR: `evaluate`'s test split, the best reading.
The naive run keeps both tables in memory-mapped files and takes targets in random order, as before the arrangement; it goes on for
NAIVE_SECONDS, and the second half counts.

Expected at 14.9 M, before its first run, from what 2 M gave (warm start .606, after the epoch .606): .64 to .72, as planted graphs of
200,000 and 2 M papers had risen from .44 to .58. It became .55 and .57: topics of the middle level grow with the graph (3,000 papers
there, 6,000 here), and a citation within one is the harder to tell from chance. From that run on: 2 M's figure less a tenth.
"""

import json
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from helpers.artefacts import new_array
from helpers.config import ROOT, Config
from helpers.corpus.build import build_corpus
from helpers.memory import available_ram, plan_table, training_needs
from helpers.neighbors.evaluate import evaluate, validation_scores
from helpers.pairs.blocks import ORDER, PairBlocks
from helpers.pairs.build import Pairs, build_pairs
from helpers.rows.files import Float32Rows, RowFiles, as_stored, as_tensor, pieces
from helpers.training.checkpoint import trained_checkpoint
from helpers.training.engines import KernelEngine
from helpers.training.loop import probe, thinned, train, training_of
from tests.planted import LEAF, planted_citations

FOLDER = ROOT / "runs" / "scale"
CITATIONS, TAIL = 10.24, 0.4  # of a paper, on average, and the shape of their spread: an eighth of the papers have fewer than four
HELDOUT = 20_000  # citations
NAIVE_SECONDS = 180.0
NAIVE_PAIRS = 1 << 13  # a block: in three minutes there are some
SIZES = {  # papers, and the runs on them: name -> settings
    "two_million": (2_000_000, {"first": dict(dimensions=188)}),
    "cs": (2_150_127, {"cs": dict(dimensions=512, row_type="float32")}),
    "medline": (14_886_544, {"medline": dict(dimensions=188), "disk": dict(dimensions=300)}),
}
QUICK = {
    "quick": (20_000, {"medline": dict(dimensions=188), "cs": dict(dimensions=64, row_type="float32"), "disk": dict(tables_on_disk=True)})
}


def run(quick: bool = False) -> dict[str, float]:
    """The figures of issue 7; `quick`: the same of one small graph, whose tables go to the disk because they are told to."""
    figures = {}
    for graph, (papers, runs) in (QUICK if quick else SIZES).items():
        measured("graph", FOLDER / graph, {"papers": papers})
        for name, settings in runs.items():
            done = measured("train", FOLDER / graph, settings)
            figures |= {f"{name}_{what}": value for what, value in done.items()}
            if name == "disk":
                naive = measured("naive", FOLDER / graph, settings)
                figures |= {f"naive_{what}": value for what, value in naive.items()}
            shutil.rmtree(FOLDER / graph / "checkpoints")
    rate = {name: figures[f"{name}_pairs_per_s"] * figures[f"{name}_dimensions"] for name in ("disk", "medline")}
    figures["disk_rate_fraction"] = rate["disk"] / rate["medline"]
    figures["disk_vs_naive"] = figures["disk_pairs_per_s"] / figures["naive_pairs_per_s"]
    return figures


def measured(what: str, folder: Path, settings: dict) -> dict[str, float]:
    """What a process of its own says of itself; its lines are shown as they come."""
    command = [sys.executable, "-u", "-m", "tests.benchmarks.scale", what, str(folder), json.dumps(settings)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
    if process.returncode:
        raise SystemExit(f"{what} {settings} ended with {process.returncode}")
    return json.loads(line)


def config_of(folder: Path, **settings) -> Config:
    """One epoch, gently, as the medline preset trains; no checkpoint but the last."""
    how = dict(subset="all", epochs=1, checkpoint_minutes=1000.0, dumps=[folder / "citations.parquet", folder / "papers.parquet"])
    return Config.of_preset("medline", **how, out=folder, **settings)


def graph(folder: Path, papers: int) -> dict[str, float]:
    """The corpus and the pairs of a planted graph, made once; paper i + 1 lies in topic i // LEAF, which is its title."""
    start, config = time.perf_counter(), config_of(folder, heldout=HELDOUT / (CITATIONS * papers))
    if not (folder / "pairs" / "manifest.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        citing, cited = planted_citations(papers, np.random.default_rng(0), CITATIONS, TAIL)
        columns = {"citing": citing + np.int32(1), "cited": cited + np.int32(1)}
        pq.write_table(pa.table(columns), folder / "citations.parquet", row_group_size=1 << 22, use_dictionary=False)
        del citing, cited, columns
        ids = np.arange(papers, dtype=np.int32)
        topics = pc.cast(pa.array(ids // LEAF), pa.string())
        pq.write_table(pa.table({"id": ids + 1, "title": topics, "year": ids * 0 + 2000}), folder / "papers.parquet")
        build_corpus(config)
        build_pairs(config)
    degree = np.diff(Pairs(config).indptr)
    print(f"{folder.name}: {len(degree):,} papers, {degree.sum():,} pairs, {(degree < 4).mean():.1%} of the papers in fewer than four")
    return {"pairs": int(degree.sum()), "seconds": time.perf_counter() - start, "peak_gb": peak_gb()}


def trained(folder: Path, **settings) -> dict[str, float]:
    """The plan, then the run, then both side by side."""
    config = config_of(folder, **settings)
    pairs = Pairs(config)
    plan, start = training_of(config, pairs).placed(available_ram()), time.perf_counter()
    rate = probe(config, *thinned(pairs, config.dimensions))
    told = training_needs(plan, rate)
    print(f"{folder.name}: {pairs.papers:,} papers x {config.dimensions}, {config.row_type}; probe {time.perf_counter() - start:.0f} s")
    for line in plan_table(plan, rate):
        print("  " + " | ".join(line))
    with Resident() as resident:
        start, cpu = time.perf_counter(), time.process_time()
        result = train(config, pairs, validation_scores(pairs))
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    tables = (Float32Rows(as_stored(rows)) for rows in (result.target, result.context))
    metrics, last = evaluate(pairs, *tables), result.log[-1]
    return {
        "dimensions": config.dimensions,
        "on_disk": float(plan.on_disk),
        "pairs_per_s": last["pairs"] / last["seconds"],
        "training_seconds": last["seconds"],
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "rss_gb": peak_gb(),
        "anonymous_gb": resident.peak / 1e9,
        "mrr": metrics["mrr"],
        "mrr_random": metrics["baselines"]["random"]["mrr"],
        "mrr_popularity": metrics["baselines"]["popularity"]["mrr"],
        "mrr_at_start": result.log[0]["mrr"],
        "planned_ram_vs_real": told["ram"] / resident.peak,
        "planned_seconds_vs_real": told["seconds"] / seconds,
    }


def naive(folder: Path, **settings) -> dict[str, float]:
    """Both tables of the last checkpoint in memory-mapped files, targets in random order, for NAIVE_SECONDS."""
    config = config_of(folder, **settings)
    pairs, at = Pairs(config), config.folder("naive")
    trained_there = trained_checkpoint(config, pairs.fingerprint)
    at.mkdir(exist_ok=True)
    tables = []
    for name in ("target", "context"):
        rows = RowFiles(trained_there.path, name)
        tables.append(new_array(at / f"{name}.npy", rows.dtype, rows.shape))
        for piece in pieces(len(rows)):
            tables[-1][piece] = rows[piece]
        tables[-1].flush()
    shutil.rmtree(trained_there.path)
    source = InRandomOrder(pairs.indptr, pairs.contexts, config.seed, NAIVE_PAIRS)
    engine = KernelEngine(config, pairs.indptr, pairs.contexts, pairs.noise, *map(as_tensor, tables), source=source)
    start, done = time.perf_counter(), [(0.0, 0)]  # seconds since the start, pairs
    for block in range(source.blocks):
        pairs_done = done[-1][1] + engine.train_block(0, block, config.learning_rate)
        done.append((time.perf_counter() - start, pairs_done))
        if done[-1][0] > NAIVE_SECONDS:
            break
    shutil.rmtree(at)
    (before, earlier), (seconds, later) = done[len(done) // 2], done[-1]
    return {"pairs_per_s": (later - earlier) / (seconds - before), "pairs": later, "rss_gb": peak_gb()}


class InRandomOrder(PairBlocks):
    """Targets one by one in random order, as they came before there were runs."""

    def targets(self, epoch: int, block: int) -> np.ndarray:
        if epoch != self._epoch:
            degree = np.diff(self.indptr)
            self._epoch, self._order = epoch, self.generator(epoch, purpose=ORDER).permutation(np.flatnonzero(degree).astype(np.int32))
            done = np.cumsum(degree[self._order])
            self._bounds = np.append(np.searchsorted(done, np.arange(self.blocks) * self.pairs // self.blocks, side="right"), len(done))
        return self._order[self._bounds[block] : self._bounds[block + 1]]


def peak_gb() -> float:
    """This process's resident peak."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


class Resident(threading.Thread):
    """The peak of this process's memory that no file backs, bytes, looked at 20 times a second while the block runs."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self._over = 0, threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.05):
            status = Path("/proc/self/status").read_text()
            self.peak = max(self.peak, int(re.search(r"RssAnon:\s+(\d+)", status).group(1)) * 1024)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self._over.set()
        self.join()


if __name__ == "__main__":
    what, folder, settings = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    print(json.dumps({"graph": graph, "train": trained, "naive": naive}[what](folder, **settings)))
