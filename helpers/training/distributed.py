"""Training by many processes, started by torchrun: tables in shards over all of them (TorchRec), or whole in each (DDP, local SGD)."""

import argparse
import dataclasses
import datetime
import importlib.metadata
import os
import shutil
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.algorithms.model_averaging.utils import average_parameters

from helpers.artefacts import differences, new_array, new_folder, read_json, write_json, write_manifest
from helpers.config import FIXED_SETTINGS, RANGES, ROOT, TRAINING_SETTINGS, Config
from helpers.errors import ArtefactError, ConfigError, UserError, in_a_line
from helpers.memory import TABLES
from helpers.models.sgns import sgns_loss
from helpers.pairs import noise
from helpers.pairs.blocks import PairSource
from helpers.pairs.build import Pairs
from helpers.pairs.shards import pair_source
from helpers.progress import progress
from helpers.rows.tables import FIRST_SUM, update
from helpers.training.checkpoint import KEPT, position
from helpers.training.engines import new_tables
from helpers.training.loop import check_learning, log_row, rate_of, write_log
from helpers.training.torch_engine import CHUNK, batch_size

PINS = ROOT / "requirements-distributed.txt"
LEAST_BLOCKS = 8  # an epoch: all ranks should have some of it; in small ones a target fills whole batches


def _torchrec():
    # TorchRec; ConfigError where it, or what it needs, is not as pinned, or does not load
    try:
        for name, version in (line.split("==") for line in PINS.read_text().splitlines() if "==" in line and line[0] != "#"):
            if (found := importlib.metadata.version(name)) != version:
                raise ImportError(f"{name} is {found}, not {version}")
        import torchrec
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        advice = f"`pip install --no-deps -r {PINS.name}` beside torch 2.13, or take --replicas"
        raise ConfigError(f"Tables in shards need TorchRec as pinned ({in_a_line(error)}): {advice}.") from None
    return torchrec


class _Sharded:
    # Both tables (N, D) in shards of rows, one a rank, trained by TorchRec's fused row-wise Adagrad: a backward pass is a step, and
    # gradients are summed over the ranks

    def __init__(self, N: int, D: int, device: str):
        torchrec = _torchrec()
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from torchrec.distributed import DistributedModelParallel, comm_ops, sharding_plan, types
        from torchrec.distributed.embedding import EmbeddingCollectionSharder

        comm_ops.set_gradient_division(False)
        tables = [torchrec.EmbeddingConfig(name=name, embedding_dim=D, num_embeddings=N, feature_names=[name]) for name in TABLES]
        model = torchrec.EmbeddingCollection(tables=tables, device=torch.device("meta"))
        sharder = EmbeddingCollectionSharder(fused_params={"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "eps": 0.0})
        places = {name: sharding_plan.row_wise(compute_kernel="fused") for name in TABLES}
        plan = sharding_plan.construct_module_sharding_plan(model, places, sharder, device_type=device.split(":")[0])
        self._model = DistributedModelParallel(model, device=torch.device(device), plan=types.ShardingPlan({"": plan}), sharders=[sharder])
        self._optimizer, self._keyed = self._model.fused_optimizer, torchrec.KeyedJaggedTensor

    def parts(self):
        # Tables and sums, by name, as sharded tensors
        tables, sums = self._model.state_dict(), self._optimizer.state_dict()["state"]
        sums = {f"{name}_sums": next(iter(sums[f"embeddings.{name}.weight"].values())) for name in TABLES}
        return {name: tables[f"embeddings.{name}.weight"] for name in TABLES} | sums

    def rows(self, ids, rate):
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.zero_grad()  # tells the kernels, which take it along in the forward pass
        lengths = torch.tensor([len(part) for part in ids], device=ids[0].device)
        found = self._model(self._keyed(list(TABLES), torch.cat(ids), lengths=lengths)).wait()
        return [found[name].values() for name in TABLES]


class _Tables(nn.ModuleDict):
    def forward(self, ids):
        return [self[name](part) for name, part in zip(TABLES, ids, strict=True)]


class _Replicas:
    # Both tables whole in each rank: gradients are averaged by DDP or, with `every`, each rank makes its own steps, and after every so
    # many all take the mean of their tables

    def __init__(self, N: int, D: int, device: str, every: int):
        self._tables = _Tables({name: nn.Embedding(N, D, sparse=True, device=device) for name in TABLES})
        self._sums = {name: torch.zeros(N, device=device) for name in TABLES}
        self._model = self._tables if every else nn.parallel.DistributedDataParallel(self._tables)
        self._every, self._steps = every, 0

    def parts(self):
        # As of _Sharded, whole, and the same in all ranks
        parts = {name: self._tables[name].weight for name in TABLES} | {f"{name}_sums": self._sums[name] for name in TABLES}
        if self._every:
            average_parameters(iter(parts.values()), None)
        return {name: part.detach() for name, part in parts.items()}

    def rows(self, ids, rate):
        self._tables.zero_grad()
        return self._model(ids)

    @torch.no_grad()
    def step(self, rate):
        for table, sums in zip(self._tables.parameters(), self._sums.values(), strict=True):
            gradient = table.grad.coalesce()
            (ids,), joint = gradient.indices(), gradient.values() * (1 if self._every else dist.get_world_size())
            rows, state = table[ids], {"sums": sums[ids]}
            update("rowwise_adagrad", rows, joint, state, rate)
            table[ids], sums[ids] = rows, state["sums"]
        self._steps += 1
        if self._every and self._steps % self._every == 0:
            self.parts()


def batches(source: PairSource, noise_table: np.ndarray, config: Config, epoch: int, block: int, size: int) -> list[list[torch.Tensor]]:
    """A block's pairs in a random order, int64: [targets (B,), contexts (B,), S negatives for each CHUNK of them], B = `size` at most."""
    targets, contexts = source.block(epoch, block) if block < source.blocks else np.empty((2, 0), np.int32)
    generator, made = source.generator(epoch, block), []
    order = generator.permutation(len(targets))
    for part in (order[first : first + size] for first in range(0, len(order), size)):
        negatives = noise.draw(noise_table, -(-len(part) // CHUNK) * config.shared_negatives, generator)
        made.append([torch.from_numpy(ids.astype(np.int64)) for ids in (targets[part], contexts[part], negatives)])
    return made


def train(config: Config, pairs: Pairs, replicas: bool = False, every: int = 0, device: str = "cpu") -> None:
    """Train to config.epochs in all ranks, from the newest checkpoint in `out/sharded`; then rank 0 writes one that notebook 04 opens.

    A joint batch is an even part of each rank's: rank r of R trains the blocks r, r + R, ... of an epoch. Raises ConfigError where ranks
    differ, ArtefactError for another training's checkpoint, TrainingError where nothing is learned."""
    (rank, R), N, D, P = (dist.get_rank(), dist.get_world_size()), pairs.papers, config.dimensions, len(pairs.contexts)
    config = dataclasses.replace(config, block_pairs=min(config.block_pairs, max(1, P // LEAST_BLOCKS)))
    facts = {"papers": N, "average_every": every, **config.part(FIXED_SETTINGS), **pairs.fingerprint}
    everyone = [None] * R
    dist.all_gather_object(everyone, facts | {"replicas": replicas, "epochs": config.epochs})
    for other, theirs in enumerate(everyone):
        if differs := differences(everyone[0], theirs):
            raise ConfigError(f"Rank {other} was not started as rank 0 was ({'; '.join(differs)}): give all the same settings.")
    of_run = dataclasses.replace(config, out=str(Path(config.out).parent))  # where texts or pair shards are
    source = pair_source(of_run, pairs.indptr, pairs.contexts, pairs.fingerprint)
    model = _Replicas(N, D, device, every) if replicas else _Sharded(N, D, device)
    (path, log), total = _start(config, pairs, model, facts), config.epochs * source.pairs
    size, saved, S = max(1, batch_size(config, source.pairs) // R), time.monotonic(), config.shared_negatives
    bar = progress(title=f"{R} ranks", unit=" pairs", total=total, initial=log[-1]["pairs"]) if rank == 0 else None
    while (place := position(log, source.blocks))[0] < config.epochs:
        (epoch, first), last, begun = place, log[-1], time.perf_counter()
        own, rate = batches(source, pairs.noise, config, epoch, first + rank, size), rate_of(config, last["pairs"], total)
        steps, told = torch.tensor(len(own)), torch.zeros(3, dtype=torch.float64)  # loss, pairs, whether a checkpoint is due
        dist.all_reduce(steps, dist.ReduceOp.MAX)
        own += [[torch.empty(0, dtype=torch.int64)] * 3] * (int(steps) - len(own))  # who has less takes part all the same
        for targets, contexts, negatives in own:
            of_targets, others = model.rows([targets.to(device), torch.cat([contexts, negatives]).to(device)], rate)
            of_contexts, of_negatives = others.split([len(contexts), len(negatives)])
            chunks = zip(of_targets.split(CHUNK), of_contexts.split(CHUNK), of_negatives.split(S), strict=True)
            loss = sum(sgns_loss(*rows, config.negatives / S) for rows in chunks)
            loss.backward()
            replicas and model.step(rate)
            told += torch.tensor([loss.item(), len(targets), 0])
        told[2] = rank == 0 and time.monotonic() >= saved + 60 * config.checkpoint_minutes
        dist.all_reduce(told)
        trained, seconds = int(told[1]), time.perf_counter() - begun
        done = last["pairs"] + trained, last["seconds"] + seconds, trained / seconds, rate, float(told[0]) / max(trained, 1)
        log.append(log_row(epoch + 1, min(first + R, source.blocks), *done, type(model).__name__.strip("_")))
        check_learning(config, log)
        if rank == 0:
            bar.update(trained)
            write_log(config, log)
        if told[2]:
            path, saved = _save(config, model.parts(), facts, log), time.monotonic()
    if int(path.name) < log[-1]["pairs"]:
        path = _save(config, model.parts(), facts, log)
    if rank == 0:
        bar.close()
        _publish(config, pairs, path, log, source.blocks)
    dist.barrier()


def _save(config: Config, parts: dict, facts: dict, log: list[dict], alone: bool = False) -> Path:
    # A checkpoint: each rank (or rank 0 alone) writes its part, then rank 0 says that it is whole, and deletes all but the newest
    path = config.folder("sharded") / f"{log[-1]['pairs']:014d}"
    dcp.save(parts, checkpoint_id=path, no_dist=alone)
    if dist.get_rank() == 0:
        write_json(path / "run.json", {"facts": facts, "log": log})
        for old in sorted(path.parent.glob("[0-9]*"))[:-KEPT]:
            shutil.rmtree(old)
    return path


def _start(config: Config, pairs: Pairs, model: _Sharded | _Replicas, facts: dict) -> tuple[Path, list[dict]]:
    # Fill the tables from the newest whole checkpoint, the first of which rank 0 makes of the warm start; returns it and its log
    whole = "*/run.json"
    if dist.get_rank() == 0 and not any(config.folder("sharded").glob(whole)):
        tables = new_tables(dataclasses.replace(config, tables_on_disk=True, contexts_on_disk=True), pairs.indptr, pairs.contexts)
        sums = {f"{name}_sums": torch.full((pairs.papers,), FIRST_SUM) for name in TABLES}
        _save(config, dict(zip(TABLES, tables, strict=True)) | sums, facts, [log_row(0, 0, 0, 0.0, "", "", "", "")], alone=True)
        shutil.rmtree(config.folder("tables"))
    dist.barrier()
    path = max(config.folder("sharded").glob(whole)).parent
    kept = read_json(path / "run.json", "the training")
    if differs := differences(kept["facts"], facts):
        advice = "give the same settings, or delete that folder"
        raise ArtefactError(f"{path} is a checkpoint of another training ({'; '.join(differs)}): {advice}.")
    dcp.load(model.parts(), checkpoint_id=path)
    return path, kept["log"]


def _publish(config: Config, pairs: Pairs, path: Path, log: list[dict], blocks: int) -> None:
    # Write what the ranks have saved as a checkpoint that the notebooks open, through files: no memory holds it all
    epoch, block = position(log, blocks)
    with new_folder(config.folder("checkpoints") / f"{epoch * blocks + block:09d}") as folder:
        for name, part in dcp.FileSystemReader(path).read_metadata().state_dict_metadata.items():
            rows = torch.from_numpy(new_array(folder / f"{name}-00000.npy", np.float32, tuple(part.size)))
            dcp.load({name: rows}, checkpoint_id=path, no_dist=True)
        facts = {"epoch": epoch, "block": block, "log": log, "config": config.part(TRAINING_SETTINGS), "pairs": pairs.fingerprint}
        write_manifest(folder, **facts)
    for link in (config.folder(stage) for stage in ("corpus", "pairs")):
        link.exists() or link.symlink_to(Path("..") / link.name)
    print(f"\n{config.out} is trained: notebook 04 opens it as its OUT.", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """What each rank runs; 0 when all went well, 2 with one sentence on standard error."""
    parser = argparse.ArgumentParser(prog="torchrun --nproc-per-node R -m helpers.training.distributed", description=__doc__)
    parser.add_argument("--out", required=True, metavar="RUN", help="folder of a run that has its pairs; results go to RUN/distributed")
    parser.add_argument("--preset", default="sample")
    for name, (least, *_) in RANGES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(least), help="(default: the preset's)")
    parser.add_argument("--replicas", action="store_true", help="tables whole in each rank, not in shards")
    parser.add_argument("--average-every", type=int, default=0, metavar="N", help="replicas train alone, and take their mean every N steps")
    parser.add_argument("--timeout", type=float, default=600, metavar="S", help="seconds that ranks wait for each other (default: 600)")
    given = parser.parse_args(arguments)
    rank, ranks = (os.environ.get(name, "none") for name in ("RANK", "WORLD_SIZE"))
    try:
        if ranks == "none":
            raise ConfigError("Ranks are started by torchrun: `torchrun --nproc-per-node 2 -m helpers.training.distributed --out RUN`.")
        if given.average_every and not given.replicas:
            raise ConfigError("--average-every is for replicas, which can train alone: give --replicas, too, or leave it out.")
        settings = {"row_type": "float32", "optimizer": "rowwise_adagrad"} | {name: vars(given)[name] for name in RANGES}
        config = Config.of_preset(given.preset, out=given.out, **settings)
        on_gpu = torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        on_gpu = on_gpu and (given.replicas or torch.cuda.get_device_capability()[0] >= 8)  # FBGEMM's oldest: Ampere
        pairs, device = Pairs(config), f"cuda:{os.environ['LOCAL_RANK']}" if on_gpu else "cpu"
        config = dataclasses.replace(config, out=str(config.folder("distributed")))
        if on_gpu:
            torch.cuda.set_device(device)
        timeout, again = datetime.timedelta(seconds=given.timeout), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store, number, size = next(dist.rendezvous("env://", timeout=timeout))
        # of this try alone: after a restart the store still has the addresses of those that died
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", None, timeout, size, number, dist.PrefixStore(again, store))
        train(config, pairs, given.replicas, given.average_every, device)
        dist.destroy_process_group()
        return 0
    except UserError as error:
        told = error
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        advice = f"start all {ranks} with the same address within {given.timeout:g} s (--timeout); the last checkpoint is untouched"
        told = f"Another rank did not come up, or was lost ({in_a_line(error)}): {advice}."
    print(f"helpers.training.distributed, rank {rank}: {told}", file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # what torchrec and fbgemm say of themselves
    status = main()
    sys.stdout.flush()
    os._exit(status)  # at once: an interpreter that winds up aborts where gloo's threads still let go of tensors
