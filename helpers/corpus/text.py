"""Text -> corpus: a word is a paper, its count its degree; texts become ids, read once, cleaned by processes, never in memory whole."""

# Clean are lower-case letters in NFKC; digits and punctuation are gaps between words, stress marks and soft hyphens are nothing.

import contextlib
import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet

from helpers.artefacts import new_folder, open_npy, sha256, write_json
from helpers.config import CORPUS_SETTINGS, Config
from helpers.corpus.build import FEW_CITATIONS, STORED, known_corpus
from helpers.corpus.dumps import DumpFile, files_of, opened, sentences
from helpers.corpus.records import KEPT, Report
from helpers.corpus.shards import WORTH_A_PROCESS, readers
from helpers.corpus.tables import SUBSTITUTE
from helpers.errors import DumpError
from helpers.progress import progress

ENDS = "\n", SUBSTITUTE  # of a text; of one that is dropped for bytes that are not UTF-8: the first that are numbered
WORDS, NOTHING = re.compile(rf"[^\W\d_]+|[{''.join(ENDS)}]"), re.compile("[\u0300-\u036f\u00ad\u200b-\u200d]")
BLOCK, PIECE = 1 << 22, 1 << 24  # bytes cleaned, ids renumbered at a time
TEXT_WORDS = 10_000  # a new text begins at every so manieth word of all, so that none is longer


def clean(text: str) -> list[str]:
    """The words of a text, and its ENDS among them."""
    text = unicodedata.normalize("NFKC", text).lower()
    return WORDS.findall(text if text.isascii() else NOTHING.sub("", text))


def _blocks(file: DumpFile) -> Iterator[tuple[str, bytes]]:
    # (the file's name, some of its texts, one a line): its lines or, of a table, the column `text` or else the first one of strings
    kind, rest = file.name.lower().removesuffix(".gz").split(".")[-1], b""
    with sentences(file):
        if kind in ("csv", "tsv", "parquet"):
            parsing = pa.csv.ParseOptions(delimiter="\t" if kind == "tsv" else ",", newlines_in_values=True)
            of_csv = pa.dataset.CsvFileFormat(parsing, convert_options=pa.csv.ConvertOptions(check_utf8=False))
            table = pa.dataset.dataset(file.path, format="parquet" if kind == "parquet" else of_csv)
            names = [field.name for field in table.schema if field.type in (pa.string(), pa.large_string())]
            if not names:
                raise DumpError(f"{file} has no column of text; found {', '.join(table.schema.names)[:200]}.")
            chosen = "text" if "text" in names else names[0]
            for batch in table.to_batches(columns=[chosen], batch_size=1 << 13, batch_readahead=2):
                texts = batch.column(0).cast(pa.large_binary()).drop_null().to_pylist()
                yield file.name, b"\n".join(text.replace(b"\n", b" ") for text in texts)
            return
        with opened(file) as (stream, _):
            while piece := stream.read(BLOCK):
                rest += piece
                cut = rest.rfind(b"\n") + 1 or rest.rfind(b" ") + 1 or len(rest)  # a line may be as long as the file
                yield file.name, rest[:cut]
                rest = rest[cut:]
            yield file.name, rest


def _numbered(name: str, texts: bytes) -> tuple[str, list[str], np.ndarray]:
    # (name, the different words, ENDS first; the texts as places in that list, int32)
    places = defaultdict()
    places.default_factory = places.__len__
    found = [places[word] for word in (*ENDS, *clean(texts.removesuffix(b"\n").decode(errors="substitute") + "\n"))]
    return name, list(places), np.array(found[2:], np.int32)


def _all_numbered(files: list[DumpFile]) -> Iterator[tuple[str, list[str], np.ndarray]]:
    large = sum(file.size for file in files) > WORTH_A_PROCESS
    blocks = (block for file in files for block in _blocks(file) if block[1])
    with readers() if large else contextlib.nullcontext() as pool:
        while some := list(itertools.islice(blocks, 8)):  # what is read does not run ahead of what is cleaned
            yield from (pool.map if large else map)(_numbered, *zip(*some, strict=True))


def _pieces(path: Path) -> Iterator[np.ndarray]:
    with open(path, "rb") as file:
        while len(ids := np.fromfile(file, np.int32, PIECE)):
            yield ids


def build_vocabulary(config: Config) -> dict:
    """Make `out/corpus/` of texts; returns its report. Raises DumpError where they cannot be read or too few words are left."""
    # Beside papers.parquet: vocabulary.json, each word's count; tokens.npy int32, the ids of all texts, without words that come fewer than
    # min_degree times; texts_indptr.npy int64 (T+1,), where each text begins. Memory is bounded by the different words, 100 bytes each.
    sources, known = known_corpus(config)
    if known:
        return known
    report, numbers, names, ends = Report(), defaultdict(), ", ".join(config.dumps), [np.zeros(1, np.int64)]
    numbers.default_factory = numbers.__len__
    with new_folder(config.folder("corpus")) as folder:
        with open(folder / "words.tmp", "wb") as file, progress(title="Reading", unit=" words") as bar:
            for name, words, places in _all_numbered(files_of(config.dumps)):
                text_of = np.cumsum(places == 0) - (places == 0)
                if len(bad := np.unique(text_of[places == 1])):
                    report.first.setdefault("malformed", f"{name}, text {report.read[name] + bad[0] + 1:,}, which is not UTF-8")
                report.read.update(dict.fromkeys(("records", name), int(text_of[-1]) + 1))
                report.dropped["papers"]["malformed"] += len(bad)
                file.write(np.fromiter(map(numbers.__getitem__, words), np.int32)[places[~np.isin(text_of, bad)]])
                bar.update(len(places))
        report.check(names, config.max_bad_fraction)
        counts = sum((np.bincount(ids, minlength=len(numbers)) for ids in _pieces(folder / "words.tmp")), np.zeros(len(numbers), np.int64))
        counts[:2] = 0  # of the ENDS
        order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts >= max(config.min_degree, 1))]
        if len(order) < 2:
            found = f"of {max(len(numbers) - 2, 0):,} different words the commonest comes {counts.max(initial=0):,} times"
            needed = f"two that come {max(config.min_degree, 1):,} times (min_degree) are needed"
            raise DumpError(f"{names}: {found}, but {needed}; give more text, or lower min_degree.")
        new_ids, N, done = np.full(len(counts), -1, np.int32), len(order), 0
        new_ids[order] = np.arange(N, dtype=np.int32)
        with open_npy(folder / "tokens.npy", np.int32, int(counts[order].sum())) as file:
            for ids in _pieces(folder / "words.tmp"):
                tokens = new_ids[ids]
                before = done + np.cumsum(tokens >= 0)
                ends.append(before[ids == 0])
                file.write(tokens[tokens >= 0])
                done = int(before[-1])
        (folder / "words.tmp").unlink()
        starts = np.unique(np.concatenate(ends))
        report.dropped["papers"]["no word left"] = report.read["records"] - report.dropped["papers"]["malformed"] - len(starts) + 1
        degree, words = counts[order].astype(np.int32), np.array(list(numbers), object)[order].tolist()
        columns = words, words, *(pa.nulls(N, kind) for kind in KEPT.types[2:]), degree, np.ones(N, bool), degree < FEW_CITATIONS
        pa.parquet.write_table(pa.table([*map(pa.array, columns)], schema=STORED), folder / "papers.parquet")
        write_json(folder / "vocabulary.json", dict(zip(words, degree.tolist(), strict=True)))
        np.save(folder / "texts_indptr.npy", np.union1d(starts, np.arange(0, done, TEXT_WORDS)))
        np.save(folder / "citations_indptr.npy", np.zeros(N + 1, np.int64))  # words cite nothing
        np.save(folder / "citations.npy", np.zeros(0, np.int32))
        facts = {"config": config.part(CORPUS_SETTINGS), "sources": sources, "first_of_each": report.first}
        facts["texts"] = {"read": report.read["records"], "dropped": dict(+report.dropped["papers"]), "kept": len(starts) - 1}
        facts["words"] = {"read": int(counts.sum()), "kept": done, "different": len(numbers) - 2, "different_kept": N}
        facts["sha256"] = {file.name: sha256(file) for file in sorted(folder.iterdir())}
        write_json(folder / "report.json", facts)
    return facts
