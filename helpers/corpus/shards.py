"""One dump file -> one shard: a folder of columns in which papers are 64-bit keys, written once, whatever happens afterwards.

A shard holds, of its file's records inside the subset, `papers.arrow` (KEPT, uncompressed, to be memory-mapped), the other ends of their
citations (`references.u64`, `cited_by.u64`, with the number of each record in `references.i32`, `cited_by.i32`); of all its records the
keys and whether they are inside (`records.u64`, `inside.u8`); of an edge list `citing.u64`, `cited.u64`; of a table of ids
`other_ids.u64`, `other_checks.u32`, `paper_ids.u64`; of ids that are no numbers `names.arrow` (key, check, id), each once; and
`report.json`, its counts.
Two processes read two files at a time; a shard that is finished is not read again.
"""

import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from helpers.artefacts import new_folder, read_json, write_json
from helpers.config import Config
from helpers.corpus import dumps
from helpers.corpus.keys import HASHED, NONE, KeyTable, keys_of
from helpers.corpus.records import CITATIONS, OTHER_IDS, Report
from helpers.errors import ArtefactError
from helpers.progress import progress

VERSION = 2  # of what a shard holds: another one is read again
RECORD_COLUMNS = ("paper_id", "title", "year", "venue", "fields")
KEPT = pa.schema(
    [("paper_id", pa.string()), ("title", pa.string()), ("year", pa.int32()), ("venue", pa.string()), ("fields", pa.list_(pa.string()))]
)
NAMES = pa.schema([("key", pa.uint64()), ("check", pa.uint32()), ("id", pa.string())])
READING_SETTINGS = ("subset", "field", "first_year", "last_year", "keep_unrecorded")
PROCESSES = min(2, os.cpu_count() or 1)
WORTH_A_PROCESS = 20_000_000  # bytes of dump below which a process would start for longer than it reads
MANIFEST = "report.json"


def read_shards(config: Config, files: list[dumps.DumpFile]) -> tuple[list[Path], Report]:
    """The shards of the files, in their order, those that are not finished yet read now; and what was counted in all of them.

    Raises DumpError where a file cannot be read, or too many of its records are malformed.
    """
    folder, report = config.folder("shards"), Report()
    settings = config.part(READING_SETTINGS)
    shards = [folder / _name(i, file, settings) for i, file in enumerate(files)]
    for file in files:
        dumps.reader_of(file)  # a format that nobody knows should be told before hours of reading
    if folder.exists():
        for stale in set(folder.iterdir()) - set(shards):
            shutil.rmtree(stale, ignore_errors=True)
    todo = [(file, shard) for file, shard in zip(files, shards, strict=True) if not (shard / MANIFEST).exists()]
    if finished := len(files) - len(todo):
        print(f"{finished} of {len(files)} files were read before and are not read again")
    total = sum(file.size for file, _ in todo)
    with progress(title="Reading", unit="B", total=total) as bar:
        if len(todo) > 1 and total > WORTH_A_PROCESS and PROCESSES > 1:
            _read_in_processes(todo, settings, bar)
        else:
            for file, shard in todo:
                write_shard(file, shard, settings, bar.update)
    for file, shard in zip(files, shards, strict=True):
        report.add(_report_of(shard))
        report.check(file, config.max_bad_fraction)
    return shards, report


def _name(place: int, file: dumps.DumpFile, settings: dict) -> str:
    status = file.path.stat()
    facts = [VERSION, str(file), status.st_size, status.st_mtime_ns, settings]
    return f"{place:05d}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}"


def _report_of(shard: Path) -> Report:
    counts, report = read_json(shard / MANIFEST, "notebook 01_preprocess"), Report()
    report.read, report.incomplete, report.first = Counter(counts["read"]), Counter(counts["incomplete"]), counts["first"]
    report.dropped = {kind: Counter(dropped) for kind, dropped in counts["dropped"].items()}
    return report


def _read_in_processes(todo: list, settings: dict, bar) -> None:
    """Read files two at a time; the bar counts the bytes of both. A new interpreter each: a fork of a process with threads may hang."""
    context = multiprocessing.get_context("spawn")
    done = context.Value("q", 0)
    with ProcessPoolExecutor(PROCESSES, context, _start_worker, (done, os.getpid())) as pool:
        futures = [pool.submit(_write_shard_in_worker, file, shard, settings) for file, shard in todo]
        try:
            while not all(future.done() for future in futures):
                time.sleep(0.2)
                bar.update(done.value - bar.n)
                for future in futures:
                    if future.done():
                        future.result()
            for future in futures:
                future.result()
            bar.update(done.value - bar.n)
        except BaseException:
            for process in list(pool._processes.values()):
                process.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def _start_worker(done, parent: int) -> None:
    global _done
    _done = done

    def leave_with_parent():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _write_shard_in_worker(file, shard, settings) -> None:
    def on_bytes(count):
        with _done.get_lock():
            _done.value += count

    write_shard(file, shard, settings, on_bytes)


def write_shard(file: dumps.DumpFile, shard: Path, settings: dict, on_bytes) -> None:
    """Read one file and write its shard, whole or not at all; settings: READING_SETTINGS. Raises DumpError, ArtefactError."""
    report = Report()
    with new_folder(shard) as folder, contextlib.ExitStack() as stack:
        columns = _Columns(folder, stack, settings["keep_unrecorded"])
        for batch in dumps.read(file, report, on_bytes):
            if batch.schema == CITATIONS:
                columns.add_citations(batch, report)
            elif batch.schema == OTHER_IDS:
                columns.add_other_ids(batch)
            else:
                columns.add_papers(batch, inside_subset(batch, settings), report)
        stack.close()
        counts = {"read": report.read, "dropped": report.dropped, "incomplete": report.incomplete, "first": report.first}
        write_json(folder / MANIFEST, counts)


class _Columns:
    """The open files of one shard."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack, named: bool):
        self.folder, self.stack, self.named, self.files = folder, stack, named, {}
        self.seen, self.checks = KeyTable(), np.empty(0, np.uint32)

    def write(self, name: str, values: np.ndarray) -> None:
        if name not in self.files:
            self.files[name] = self.stack.enter_context(open(self.folder / name, "wb"))
        self.files[name].write(np.ascontiguousarray(values))

    def write_batch(self, name: str, batch: pa.RecordBatch) -> None:
        if name not in self.files:
            self.files[name] = self.stack.enter_context(pa.ipc.new_file(str(self.folder / name), batch.schema))
        self.files[name].write_batch(batch)

    def keys(self, ids: pa.Array) -> np.ndarray:
        """The keys of some ids; those that cannot be read back from their key are kept by name, once each."""
        keys, checks = keys_of(ids)
        hashed = np.flatnonzero((keys >= HASHED) & (keys != NONE)) if self.named else ()
        if len(hashed):
            before = self.seen.count
            numbers = self.seen.add(keys[hashed])
            new = np.unique(numbers, return_index=True)[1] if self.seen.count > before else np.empty(0, np.int64)
            new = hashed[np.sort(new[numbers[new] >= before])]
            self.checks = np.concatenate([self.checks, checks[new]])
            if len(differing := np.flatnonzero(self.checks[numbers] != checks[hashed])):
                raise ArtefactError(same_key(ids[hashed[differing[0]]].as_py()))
            if len(new):
                self.write_batch("names.arrow", pa.record_batch([keys[new], checks[new], ids.take(pa.array(new))], schema=NAMES))
        return keys

    def add_citations(self, batch: pa.RecordBatch, report: Report) -> None:
        citing, cited = self.keys(batch["citing"]), self.keys(batch["cited"])
        whole = (citing != NONE) & (cited != NONE)
        if not whole.all():
            report.dropped["citations"]["no id"] += int(len(whole) - whole.sum())
        self.write("citing.u64", citing[whole])
        self.write("cited.u64", cited[whole])

    def add_other_ids(self, batch: pa.RecordBatch) -> None:
        others, checks = keys_of(batch["other_id"])
        self.write("other_ids.u64", others)
        self.write("other_checks.u32", checks)
        self.write("paper_ids.u64", keys_of(batch["paper_id"])[0])

    def add_papers(self, batch: pa.RecordBatch, inside: np.ndarray, report: Report) -> None:
        self.write("records.u64", keys_of(batch["paper_id"])[0])
        self.write("inside.u8", inside.astype(np.uint8))
        listed = sum(len(column.values) for column in (batch["references"], batch["cited_by"]))
        report.read["citations"] += listed
        if not inside.all():
            batch = batch.filter(pa.array(inside))
        for name in ("references", "cited_by"):
            others = batch[name].flatten()
            keys = self.keys(others)
            counts = np.diff(batch[name].offsets.to_numpy()).astype(np.int32)
            if len(empty := np.flatnonzero(keys == NONE)):
                of_record = np.searchsorted(np.cumsum(counts), empty, side="right")
                counts -= np.bincount(of_record, minlength=len(counts)).astype(np.int32)
                keys = keys[keys != NONE]
                report.dropped["citations"]["no id"] += len(empty)
            self.write(f"{name}.u64", keys)
            self.write(f"{name}.i32", counts)
            listed -= len(others)
        if listed:
            report.dropped["citations"]["outside the subset"] += listed
        self.write_batch("papers.arrow", batch.select(RECORD_COLUMNS))


def same_key(paper_id: str) -> str:
    """What to say of an id that has the same 64-bit key as another one: never seen, but not impossible."""
    return f"The id {paper_id!r} and another one share a 64-bit key (one chance in a thousand at 200 million ids); rename it in the dump."


def inside_subset(records: pa.RecordBatch, settings: dict) -> np.ndarray:
    """Which records the subset, the field and the years keep, bool (R,); what a dump does not say (null flags) is kept."""
    inside = np.ones(len(records), bool)
    if settings["subset"] != "all":
        inside &= pc.fill_null(records[f"is_{settings['subset']}"], True).to_numpy(zero_copy_only=False)
    if settings["field"]:
        matching = pc.equal(pc.utf8_lower(pc.list_flatten(records["fields"])), settings["field"].lower()).to_numpy(zero_copy_only=False)
        having = np.zeros(len(records), bool)
        having[pc.list_parent_indices(records["fields"]).to_numpy()[matching]] = True
        inside &= having
    years = records["year"].to_numpy(zero_copy_only=False)  # float with NaN where missing: comparisons with NaN are False: dropped
    if settings["first_year"] is not None:
        inside &= years >= settings["first_year"]
    if settings["last_year"] is not None:
        inside &= years <= settings["last_year"]
    return inside
