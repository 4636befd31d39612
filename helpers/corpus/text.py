"""Text -> corpus: a word is a paper, its count its degree; texts are cleaned by Arrow's kernels and kept as ids, never in memory whole."""

import itertools
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet

from helpers.artefacts import new_folder, open_npy, sha256, values_of, write_json
from helpers.config import CORPUS_SETTINGS, Config
from helpers.corpus.build import FEW_CITATIONS, STORED, known_corpus
from helpers.corpus.dumps import DumpFile, files_of, opened, sentences
from helpers.corpus.keys import KeyTable, keys_of
from helpers.corpus.records import KEPT, PAPERS, Report
from helpers.errors import DumpError
from helpers.progress import progress

NOTHING = r"[\x{0300}-\x{036f}\x{00ad}\x{200b}-\x{200d}]"  # stress marks, soft hyphens, joiners: within a word they are left out
BLOCK, PIECE = 1 << 22, 1 << 24  # bytes cleaned, ids renumbered at a time
TEXT_WORDS = 10_000  # a new text begins at every so manieth word of all, so that none is longer


def words_of(texts: pa.Array) -> pa.Array:
    """The words of texts, string (n,), and after each text an empty one: letters in NFKC and lower case; all else stands between words."""
    if not pc.all(pc.string_is_ascii(texts)).as_py():  # Arrow's own normalisation does not put letters and their marks together
        texts = pa.array([unicodedata.normalize("NFKC", text) for text in texts.to_pylist()], pa.string())
    texts = pc.replace_substring_regex(pc.utf8_lower(texts), NOTHING, "")
    texts = pc.utf8_trim(pc.replace_substring_regex(texts, r"[^\pL\pM]+", " "), " ")
    return pc.split_pattern(pc.replace_substring_regex(texts, "(.)$", r"\1 "), " ").flatten()


def _texts(file: DumpFile) -> Iterator[pa.Array]:
    # Its texts, binary, some at a time: a file's lines or, of a table, the column `text` or else the first one of strings
    kind, rest = file.name.lower().removesuffix(".gz").split(".")[-1], b""
    with sentences(file):
        if kind not in ("csv", "tsv", "parquet"):
            with opened(file) as (stream, _):
                while piece := stream.read(BLOCK):
                    rest += piece
                    cut = rest.rfind(b"\n") + 1 or rest.rfind(b" ") + 1 or len(rest)  # a line may be as long as the file
                    yield pa.array(rest[:cut].removesuffix(b"\n").split(b"\n"), pa.binary())
                    rest = rest[cut:]
                yield pa.array(rest.split(b"\n") if rest else [], pa.binary())
            return
        parsing = pa.csv.ParseOptions(delimiter="\t" if kind == "tsv" else ",", newlines_in_values=True)
        of_csv = pa.dataset.CsvFileFormat(parsing, convert_options=pa.csv.ConvertOptions(check_utf8=False))
        table = pa.dataset.dataset(file.path, format="parquet" if kind == "parquet" else of_csv)
        if not (names := [field.name for field in table.schema if field.type in (pa.string(), pa.large_string())]):
            raise DumpError(f"{file} has no column of text; found {', '.join(table.schema.names)[:200]}.")
        chosen = "text" if "text" in names else names[0]
        print(f"{file}: texts are its column {chosen!r}", flush=True)
        for batch in table.to_batches(columns=[chosen], batch_size=1 << 13, batch_readahead=2):
            yield batch.column(0).cast(pa.binary()).drop_null()


def _decoded(file: DumpFile, report: Report) -> Iterator[pa.Array]:
    # The same as strings, without those that are not UTF-8, which are counted
    for texts in _texts(file):
        before = report.read["papers"]
        try:
            texts = texts.cast(pa.string())
        except pa.ArrowInvalid:
            good = [text.decode(errors="ignore").encode() == text for text in texts.to_pylist()]
            for i in np.flatnonzero(~np.array(good)):
                report.drop(PAPERS, "malformed", f"{file.name}, text {before + i + 1:,}, which is not UTF-8")
            texts = texts.filter(pa.array(good)).cast(pa.string())
        report.count(PAPERS, len(texts))
        yield texts


def _all_words(dumps: tuple[str, ...], report: Report) -> Iterator[pa.Array]:
    # The words of all files, some texts at a time, cleaned by two threads
    texts = (some for file in files_of(dumps) for some in _decoded(file, report))
    with ThreadPoolExecutor(2) as pool:
        while some := list(itertools.islice(texts, 8)):  # what is read does not run ahead of what is cleaned
            yield from pool.map(words_of, some)


def build_vocabulary(config: Config) -> dict:
    """Make `out/corpus/` of texts: beside papers.parquet vocabulary.json (word: count), tokens.npy int32 (words that come min_degree times)
    and texts_indptr.npy int64 (T+1,); returns its report. Raises DumpError where texts cannot be read or too few words are left."""
    sources, known = known_corpus(config)
    if known:
        return known
    report, numbers, names, words, ends = Report(), KeyTable(), ", ".join(config.dumps), [], [[0]]
    with new_folder(config.folder("corpus")) as folder:
        with open(folder / "words.tmp", "wb") as file, progress(title="Reading", unit=" words") as bar:
            for some in _all_words(config.dumps, report):
                file.write(ids := numbers.find(keys_of(some)[0], add=True))  # -1 after each text
                different, firsts = np.unique(ids, return_index=True)
                words += some.take(firsts[different >= len(words)]).to_pylist()
                bar.update(len(ids))
        report.check(names, config.max_bad_fraction)
        counts = sum((np.bincount(ids[ids >= 0], minlength=len(words)) for ids in values_of(file.name, np.int32, PIECE)), np.zeros(1, int))
        order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts >= max(config.min_degree, 1))]
        if len(order) < 2:
            found = f"of {len(words):,} different words the commonest comes {counts.max(initial=0):,} times"
            needed = f"two that come {max(config.min_degree, 1):,} times (min_degree) are needed"
            raise DumpError(f"{names}: {found}, but {needed}; give more text, or lower min_degree.")
        new_ids, N, done = np.full(len(counts) + 1, -1, np.int32), len(order), 0  # the last one for -1
        new_ids[order] = np.arange(N, dtype=np.int32)
        with open_npy(folder / "tokens.npy", np.int32, int(counts[order].sum())) as kept:
            for ids in values_of(file.name, np.int32, PIECE):
                tokens = new_ids[ids]
                before = done + np.cumsum(tokens >= 0)
                ends.append(before[ids < 0])
                kept.write(tokens[tokens >= 0])
                done = int(before[-1])
        (folder / "words.tmp").unlink()
        starts = np.unique(np.concatenate(ends))
        report.dropped["papers"]["no word left"] = report.read["papers"] - report.dropped["papers"]["malformed"] - len(starts) + 1
        degree, words = counts[order].astype(np.int32), np.array(words, object)[order].tolist()
        columns = words, words, *(pa.nulls(N, kind) for kind in KEPT.types[2:]), degree, np.ones(N, bool), degree < FEW_CITATIONS
        pa.parquet.write_table(pa.table([*map(pa.array, columns)], schema=STORED), folder / "papers.parquet")
        write_json(folder / "vocabulary.json", dict(zip(words, degree.tolist(), strict=True)))
        np.save(folder / "texts_indptr.npy", np.union1d(starts, np.arange(0, done, TEXT_WORDS)))
        np.save(folder / "citations_indptr.npy", np.zeros(N + 1, np.int64))  # words cite nothing
        np.save(folder / "citations.npy", np.zeros(0, np.int32))
        facts = {"config": config.part(CORPUS_SETTINGS), "sources": sources, "first_of_each": report.first}
        facts["texts"] = {"read": report.read["papers"], "dropped": dict(+report.dropped["papers"]), "kept": len(starts) - 1}
        facts["words"] = {"read": int(counts.sum()), "kept": done, "different": numbers.count, "different_kept": N}
        facts["sha256"] = {file.name: sha256(file) for file in sorted(folder.iterdir())}
        write_json(folder / "report.json", facts)
    return facts
