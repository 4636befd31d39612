"""One dump file -> one shard: a folder of columns in which papers are 64-bit keys, written once, whatever happens afterwards."""

# A shard holds `records.arrow`, of all its file's records the key, its check, and whether they are inside the subset; `papers.arrow`, of
# those inside KEPT and the keys at the other ends of their citations (uncompressed, to be memory-mapped); of an edge list
# `citations.arrow`; of a table of ids `other_ids.arrow`; of ids that are no numbers `names.arrow`, each once; `report.json`, its counts.
# Two processes read two files at a time; a shard that is finished is not read again.

import contextlib
import gc
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from helpers.artefacts import new_folder, read_json, write_json
from helpers.config import REMOTE, Config
from helpers.corpus import dumps
from helpers.corpus.download import Shard, download, shards_of
from helpers.corpus.keys import HASHED, NONE, KeyTable, keys_of
from helpers.corpus.records import CITATIONS, KEPT, LAST_YEAR, OTHER_ENDS, OTHER_IDS, SPACE, SPACES, Report
from helpers.errors import ArtefactError
from helpers.progress import progress

VERSION = 5  # of what a shard holds: another one is read again
READING_SETTINGS = ("subset", "field", "first_year", "last_year")
WORTH_A_PROCESS = 20_000_000  # bytes of dump below which a process would start for longer than it reads
MANIFEST = "report.json"
MOST_SEEN = 1 << 20  # names known to be written already: memory stays bounded, and a name may be written again


def read_shards(config: Config) -> tuple[list[Path], Report]:
    """The shards of all files of `config.dumps`, those that are not finished read now, and what was counted in them; DumpError."""
    # A remote file is downloaded, read and deleted.
    folder, report, settings = config.folder("shards"), Report(), config.part(READING_SETTINGS)
    files = [file for dump in config.dumps for file in (shards_of(dump) if REMOTE.match(dump) else dumps.files_of((dump,)))]
    for file in files:
        if not isinstance(file, Shard):
            dumps.reader_of(file)  # a format that nobody knows is told now
    # what names a shard: its file's size and date; of what is remote its checksum
    facts = (json.dumps([VERSION, str(file), *file[2:], settings]) for file in files)
    shards = [folder / f"{i:05d}-{hashlib.sha256(known.encode()).hexdigest()[:16]}" for i, known in enumerate(facts)]
    if folder.exists():
        discard(set(folder.iterdir()) - {*shards, folder / "downloads"})
    todo = [(file, shard) for file, shard in zip(files, shards, strict=True) if not (shard / MANIFEST).exists()]
    if len(todo) < len(files):
        print(f"{len(files) - len(todo)} of {len(files)} files were read before and are not read again", flush=True)
    if todo:
        _read_all(todo, settings)
    for file, shard in zip(files, shards, strict=True):
        report.add(read_json(shard / MANIFEST, "notebook 01_preprocess"))
        report.check(file, config.max_bad_fraction)
    return shards, report


def discard(shards: Iterable[Path]) -> None:
    """Delete shards, first of each what says that it is finished: half deleted by a process that is killed, it must not look whole."""
    for shard in shards:
        if shard.is_dir():
            (shard / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(shard, ignore_errors=True)


def batches_of(shards: list[Path], name: str, mapped: bool = True) -> Iterator[pa.RecordBatch]:
    """The record batches of `name.arrow` of those shards that have it, memory-mapped, or each read into memory when it is its turn."""
    for shard in shards:
        if (path := shard / f"{name}.arrow").exists():
            file = pa.ipc.open_file(pa.memory_map(str(path)) if mapped else pa.OSFile(str(path)))
            yield from map(file.get_batch, range(file.num_record_batches))


def _read_all(todo: list, settings: dict) -> None:
    sizes = [None if isinstance(file, Shard) else file.size for file, _ in todo]
    with progress(title="Reading", unit="B", total=None if None in sizes else sum(sizes)) as bar:
        if len(todo) == 1 or (None not in sizes and sum(sizes) < WORTH_A_PROCESS):
            for file, shard in todo:
                write_shard(file, shard, settings, bar.update)
            return
        # two at a time, each by a new interpreter: a fork of a process with threads may hang
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), _leave_with_parent) as pool:
            try:
                for future in as_completed([pool.submit(write_shard, file, shard, settings) for file, shard in todo]):
                    bar.update(future.result())
            except BrokenExecutor as error:
                killed = "A process that read the dump was killed, most likely for want of memory"
                raise ArtefactError(f"{killed}; run this again: it goes on after the files that were read whole.") from error
            finally:  # after an error or Ctrl-C, nothing goes on
                for process in list(pool._processes.values()):
                    process.terminate()


def _leave_with_parent() -> None:
    threading.Thread(target=lambda: multiprocessing.parent_process().join() or os._exit(1), daemon=True).start()


def write_shard(file: dumps.DumpFile | Shard, shard: Path, settings: dict, on_bytes=lambda count: None) -> int:
    """Read one file and write its shard, whole or not at all; returns the file's bytes. Raises DumpError, ArtefactError."""
    # settings: READING_SETTINGS; on_bytes: progress
    report, files, path = Report(), [file], None
    if isinstance(file, Shard):
        path = download(file, shard.parent / "downloads", on_bytes)
        files, on_bytes = dumps.files_of((str(path),)), lambda count: None
    with new_folder(shard) as folder, contextlib.ExitStack() as stack:
        gc.disable()  # records are many small objects without cycles: looking for those took a quarter of the time
        stack.callback(gc.enable)
        writer = _Writer(folder, stack)
        for batch in (batch for file in files for batch in dumps.read(file, report, on_bytes)):
            if batch.schema == CITATIONS:
                writer.write("citations", {name: writer.keys(batch[name]) for name in CITATIONS.names})
            elif batch.schema == OTHER_IDS:
                writer.write("other_ids", {"other_id": keys_of(batch["other_id"])[0], "paper_id": writer.keys(batch["paper_id"])})
            else:
                writer.add_papers(batch, _inside_subset(batch, settings), report)
        stack.close()
        write_json(folder / MANIFEST, vars(report))
    if path:
        path.unlink()
    return sum(file.size for file in files)


class _Writer:
    # the open files of one shard
    def __init__(self, folder: Path, stack: contextlib.ExitStack):
        self.folder, self.stack, self.files, self.seen = folder, stack, {}, KeyTable(MOST_SEEN)

    def write(self, name: str, columns: dict[str, np.ndarray | pa.Array]) -> None:
        batch = pa.RecordBatch.from_pydict(columns)
        if name not in self.files:
            self.files[name] = self.stack.enter_context(pa.ipc.new_file(str(self.folder / f"{name}.arrow"), batch.schema))
        self.files[name].write(batch)

    def keys(self, ids: pa.Array) -> np.ndarray:
        # those that cannot be read back from their key are kept by name, once each
        keys, checks = keys_of(ids)
        hashed = np.flatnonzero((keys >= HASHED) & (keys != NONE))
        if self.seen.count > MOST_SEEN:
            self.seen = KeyTable(MOST_SEEN)
        # two ids of one key are two names here, and told apart when they are numbered
        last, numbers = self.seen.count - 1, self.seen.find(keys[hashed] ^ checks[hashed], add=True)
        new = hashed[np.diff(np.maximum.accumulate(np.append(last, numbers))) > 0]  # numbers are given in order of appearance
        if len(new):
            names = ids.take(pa.array(new))
            tidy = np.frombuffer(names.buffers()[2], np.uint8).min() > SPACE
            self.write("names", {"id": names if tidy else pc.utf8_trim(names, SPACES)})  # as their keys are made
        return keys

    def add_papers(self, batch: pa.RecordBatch, inside: np.ndarray, report: Report) -> None:
        keys, checks = keys_of(batch["paper_id"])
        self.write("records", {"key": keys, "check": checks, "inside": inside})
        listed = sum(len(batch[name].values) for name in OTHER_ENDS)
        report.read["citations"] += listed
        if not inside.all():
            batch = batch.filter(pa.array(inside))
        columns = {name: batch[name] for name in KEPT.names}
        for name in OTHER_ENDS:
            keys = self.keys(batch[name].flatten())
            before = np.concatenate([[0], np.cumsum(keys != NONE)])  # of each place among them
            offsets = before[batch[name].offsets.to_numpy() - batch[name].offsets[0].as_py()]
            columns[name] = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(keys[keys != NONE]))
            report.dropped["citations"]["no id"] += len(keys) - int(before[-1])
            listed -= len(keys)
        report.dropped["citations"]["outside the subset"] += listed
        self.write("papers", columns)


def _inside_subset(records: pa.RecordBatch, settings: dict) -> np.ndarray:
    # which records the subset, the field and the years keep, bool (R,); what a dump does not say (null flags) is kept
    inside = np.ones(len(records), bool)
    if settings["subset"] != "all":
        inside &= pc.fill_null(records[f"is_{settings['subset']}"], True).to_numpy(zero_copy_only=False)
    if settings["field"]:
        matching = pc.equal(pc.utf8_lower(pc.list_flatten(records["fields"])), settings["field"].lower())
        inside &= np.isin(np.arange(len(records)), pc.list_parent_indices(records["fields"]).filter(matching))
    if settings["first_year"] or settings["last_year"]:
        years = records["year"].to_numpy(zero_copy_only=False)  # float with NaN where missing: comparisons with NaN are False: dropped
        inside &= (years >= (settings["first_year"] or 0)) & (years <= (settings["last_year"] or LAST_YEAR))
    return inside
