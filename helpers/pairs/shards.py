"""Training pairs as parquet shards, shuffled over all of them: writing them from any pair source, and reading them as one."""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from helpers.artefacts import new_folder, read_manifest, write_manifest
from helpers.config import Config
from helpers.errors import ArtefactError
from helpers.memory import preflight
from helpers.pairs.blocks import BUCKETS, ORDER, PAIRS, SHUFFLE, PairBlocks, PairSource, joined, split
from helpers.pairs.windows import WalkPairs, window_pairs
from helpers.progress import progress

MADE_BY = "helpers.pairs.shards.write_shards"
SHARD_PAIRS, GROUP_PAIRS = 50_000_000, 1 << 20
BUCKET_PAIRS, MOST_BUCKETS = 1 << 21, 500  # 16 MB each, until there would be more than that many files
SCHEMA = pa.schema([("target", pa.int32()), ("context", pa.int32())])
STORED = dict(compression="lz4", use_dictionary=False, column_encoding="BYTE_STREAM_SPLIT", write_statistics=False)  # 6 bytes a pair


def _into_buckets(source: PairSource, epoch: int, paths: list[Path], done) -> int:
    # Write each pair of an epoch to a random one of the files, as int64; returns how many pairs there are
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(path, "wb")) for path in paths]
        for block in range(source.blocks):
            pairs = joined(*source.block(epoch, block))
            buckets = source.generator(epoch, block, BUCKETS).integers(len(files), size=len(pairs), dtype=np.uint16)
            order = np.argsort(buckets, kind="stable")
            for file, own in zip(files, np.split(pairs[order], np.searchsorted(buckets[order], range(1, len(files)))), strict=True):
                file.write(own)
            done(len(pairs))
        return sum(file.tell() for file in files) // 8


def _shuffled(source: PairSource, epoch: int, paths: list[Path], sizes: Iterable[int]) -> Iterator[np.ndarray]:
    # The pairs of bucket after bucket, each in random order (so is the whole: all orders are as likely), cut to these sizes
    rest, buckets = np.empty(0, np.int64), enumerate(paths)
    for size in sizes:
        while len(rest) < size:
            bucket, path = next(buckets)
            pairs = np.fromfile(path, np.int64)
            path.unlink()
            source.generator(epoch, bucket, SHUFFLE).shuffle(pairs)
            rest = np.concatenate([rest, pairs])
        yield rest[:size]
        rest = rest[size:]


def _cut(total: int, size: int) -> list[int]:
    # the sizes of parts of `size` each, but for the last
    return [min(size, total - first) for first in range(0, total, size)]


def write_shards(source: PairSource, folder: Path, made_of: dict, epoch=0, shard_pairs=SHARD_PAIRS, group_pairs=GROUP_PAIRS) -> dict:
    """Write an epoch of a source, shuffled over all of it, as shards of shard_pairs pairs; the manifest. ConfigError, ArtefactError."""
    # the last may hold fewer; ConfigError: memory or disk is too small; ArtefactError: nothing can be written
    # shard-00000.parquet, ...: columns target and context, int32; row groups of group_pairs. made_of: the fingerprint of the pairs that the
    # source was made of. It takes 8 bytes of disk a pair and about 0.3 GB of memory
    buckets = max(1, min(MOST_BUCKETS, -(-source.pairs // BUCKET_PAIRS)))
    ram = 24 * source.pairs // buckets + 40 * source.most_pairs + 16 * group_pairs
    preflight(Path(folder), ram, 9 * source.pairs, source.pairs / 2e7, "free some, or choose another machine or folder")
    with new_folder(folder) as new, progress(title="Shuffling into shards", unit=" pairs", total=2 * source.pairs) as bar:
        with tempfile.TemporaryDirectory(dir=new) as of_buckets:
            paths = [Path(of_buckets) / str(bucket) for bucket in range(buckets)]
            if not (pairs := _into_buckets(source, epoch, paths, bar.update)):
                raise ArtefactError(f"{folder} was not written: there are no pairs to write.")
            groups = [_cut(size, group_pairs) for size in _cut(pairs, shard_pairs)]  # of each shard
            shuffled = _shuffled(source, epoch, paths, (size for sizes in groups for size in sizes))
            for shard, sizes in enumerate(groups):
                with pq.ParquetWriter(new / f"shard-{shard:05d}.parquet", SCHEMA, **STORED) as writer:
                    for size in sizes:
                        writer.write_table(pa.table(split(next(shuffled)), schema=SCHEMA), row_group_size=size)
                        bar.update(size)
        facts = {"papers": source.papers, "pairs": pairs, "shard_pairs": shard_pairs, "seed": source.seed, "epoch": epoch}
        write_manifest(new, **facts, source=source.settings, made_of=made_of)
    return read_manifest(folder, MADE_BY)


class ShardPairs(PairSource):
    """Shards as a pair source: a block is a row group, shuffled; row groups of all shards come in a seeded order each epoch."""

    def __init__(self, folder: str | Path, papers: int, seed: int, made_of: dict):
        # papers: N; made_of: the fingerprint of these pairs. Raises ArtefactError for damaged or missing shards, or another corpus's
        self.folder, self.papers, self.seed = Path(folder), papers, seed
        manifest = read_manifest(folder, MADE_BY, verify=True)
        if manifest.get("papers") != papers or manifest.get("made_of") != made_of:
            raise ArtefactError(f"{folder} holds pairs of another corpus or split; run {MADE_BY} again.")
        self.settings, self.pairs = manifest["source"], manifest["pairs"]
        self.files = {name: facts["sha256"] for name, facts in manifest["files"].items()}
        shards = [(name, pq.read_metadata(self.folder / name)) for name in sorted(self.files)]
        self._groups = [(name, i, data.row_group(i).num_rows) for name, data in shards for i in range(data.num_row_groups)]
        self.blocks, self.most_pairs = len(self._groups), max(size for _, _, size in self._groups)

    def _fill_block(self, epoch, block, targets, contexts):
        name, group, size = self._groups[self.generator(epoch, purpose=ORDER).permutation(self.blocks)[block]]
        pairs = joined(*map(np.asarray, pq.ParquetFile(self.folder / name).read_row_group(group, columns=SCHEMA.names)))
        self.generator(epoch, block, PAIRS).shuffle(pairs)
        targets[:size], contexts[:size] = split(pairs)
        return size


class PairDataset(torch.utils.data.IterableDataset):
    """A pair source's batches for torch's DataLoader, each (targets int32 (B,), contexts int32 (B,), place); workers share the blocks."""

    def __init__(self, source: PairSource, batch_pairs: int, epoch: int = 0, done: list[int] | None = None):
        # done: of each block the pairs that `batches` has handed out, -1 when all are; to go on from, with any number of workers
        self.source, self.batch_pairs, self.epoch, self.done = source, batch_pairs, epoch, done or [0] * source.blocks

    def __iter__(self):
        worker, B = torch.utils.data.get_worker_info(), self.batch_pairs
        for block in range(self.source.blocks)[worker.id :: worker.num_workers] if worker else range(self.source.blocks):
            if (done := self.done[block]) >= 0:
                targets, contexts = map(torch.from_numpy, self.source.block(self.epoch, block))
                for first in range(done, len(targets), B):
                    yield targets[first : first + B], contexts[first : first + B], (block, first + B if first + B < len(targets) else -1)

    def batches(self, workers: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """What is left of the epoch, no pair twice, read by so many processes; `epoch` and `done` tell what was handed out."""
        spawn = {"multiprocessing_context": "spawn"} if workers else {}
        for targets, contexts, (block, done) in torch.utils.data.DataLoader(self, None, num_workers=workers, **spawn):
            self.done[int(block)] = int(done)
            yield targets, contexts
        self.epoch, self.done = self.epoch + 1, [0] * self.source.blocks


def pair_source(config: Config, indptr: np.ndarray, contexts: np.ndarray, made_of: dict | None = None) -> PairSource:
    """The source that config.pairs_from names: of this CSR, of shards in `out/pair_shards/`, or of the texts in `out/corpus/`."""
    if config.pairs_from == "windows":
        return window_pairs(config)
    if config.pairs_from == "shards":
        return ShardPairs(config.folder("pair_shards"), len(indptr) - 1, config.seed, made_of)
    given = indptr, contexts, config.seed, config.block_pairs
    walks = config.walk_length, config.window, config.walks_per_paper
    return WalkPairs(*given, *walks) if config.pairs_from == "walks" else PairBlocks(*given)
