"""Fuzz: a damaged dump is read, with counts that add up, or refused in one sentence that names its file; nothing else escapes.

    python -m tests.fuzz [--inputs 20000] [--seed 0] [--first 0] [reader ...]

Input i of a reader depends on (seed, reader, i) alone: `--first i --inputs 1 READER` makes it again; input 0 is a seed as it is. A new
reader is one more entry of SEEDS. Children read the inputs, so that a crash or a hang of the interpreter is seen, and escapes as well.
"""

import argparse
import contextlib
import gzip
import io
import json
import os
import queue
import random
import re
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from helpers.config import ROOT, Config
from helpers.corpus import dumps
from helpers.corpus.build import build_corpus, open_corpus
from helpers.corpus.json_lines import BLANK
from helpers.corpus.records import KEPT, OTHER_ENDS
from helpers.corpus.shards import READING_SETTINGS, write_shard
from helpers.errors import ArtefactError, ConfigError, DumpError
from tests.real_data import paper_data

LIMIT = 30  # seconds an input may take
MEMORY = 8 << 30  # bytes of address space of a child
CHILD = ("-m", "tests.fuzz")
AT_A_TIME = 500  # inputs a child is asked for
SENTENCES = (  # what the classes of refused inputs are called
    "is empty", "is cut off", "is damaged", "cannot be read", "expected the columns", "known format", "climbs out",
    "holds no dump's files", "inside an archive", "more than one column", "not a pickle",
    "are malformed", "not one citation", "No citation is left",
)  # fmt: skip


def head(path: Path, lines: int) -> bytes:
    """The first lines of a file, compressed or not."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        return b"".join(line for line, _ in zip(file, range(lines), strict=False))


def real(name: str, lines: int) -> list[bytes]:
    """The first lines of a file of real data, or nothing where PAPER_DATA is unset."""
    return [head(paper_data() / name, lines)] if paper_data() else []


def _named(name: str, *texts: bytes) -> list[dict[str, bytes]]:
    return [{name: text} for text in texts]


def _parquet(**columns) -> bytes:
    pq.write_table(pa.table(columns), file := io.BytesIO())
    return file.getvalue()


def _zip(**members: bytes) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return file.getvalue()


def _json(*records: dict) -> bytes:
    return "\n".join(map(json.dumps, records)).encode() + b"\n"


DATA = ROOT / "data"
S2_PAPER = {
    "externalids": {"PubMed": "7", "DBLP": None, "DOI": "10.1/A"},
    "title": "A title",
    "year": 2006,
    "venue": "",
    "journal": {"name": "J"},
    "s2fieldsofstudy": [{"category": "Computer Science", "source": "external"}],
}
S2_PAPERS = _json(*({"corpusid": i, **S2_PAPER} for i in range(1, 9)))
S2_CITATIONS = _json(*({"citingcorpusid": str(i), "citedcorpusid": i // 2 or None} for i in range(1, 20)))
S2_IDS = _json(*({"sha": f"{i:040x}", "corpusid": i, "primary": True} for i in range(1, 9)))
AMINER = [
    {"id": f"a{i}", "title": "T", "year": 2013, "venue": {"raw": "V"}, "fos": [{"name": "F"}], "n_citation": 0, "doi": f"10.1/{i}"}
    for i in range(9)
]
AMINER = [{**record, "references": [f"a{i // 2}", i]} for i, record in enumerate(AMINER)]
TITLES = {row: f"Title {row}" for row in range(6)}
CITATIONS, METADATA = DATA / "medline_nih_citations.csv.gz", DATA / "medline_nih_metadata.csv.gz"
SEEDS = {  # reader -> a function that makes dumps: file name -> its bytes, uncompressed
    "s2_open_corpus": lambda: _named(
        "s2.jsonl",
        head(DATA / "cs_s2_open_corpus.jsonl.gz", 12),
        head(DATA / "everything_wrong_s2.jsonl", 99),
        *real("raw-formats/s2-open-corpus-2018.jsonl.gz", 20),
    ),
    "openalex": lambda: _named(
        "works.jsonl", head(DATA / "medline_openalex_works.jsonl.gz", 20), *real("openalex-medline-works.jsonl.gz", 8)
    ),
    "s2_papers": lambda: [
        *_named("papers.jsonl", S2_PAPERS, *real("raw-formats/s2ag-2022-papers.jsonl.gz", 20)),
        {"papers.jsonl": S2_PAPERS, "citations.jsonl": S2_CITATIONS},
    ],
    "s2_citations": lambda: _named("citations.jsonl", S2_CITATIONS, *real("raw-formats/s2ag-2022-citations.jsonl.gz", 60)),
    "s2_paper_ids": lambda: [
        *_named("paper-ids.jsonl", S2_IDS, *real("raw-formats/s2ag-2022-paper-ids.jsonl.gz", 60)),
        {
            "paper-ids.jsonl": S2_IDS,
            "citations.jsonl": S2_CITATIONS,
            "s2.jsonl": _json(*({"id": f"{i:040x}", "outCitations": [f"{i // 2:040x}", f"{i % 3:040x}"]} for i in range(1, 12))),
        },
    ],
    "aminer": lambda: [
        *_named("dblp.jsonl", _json(*AMINER), *real("raw-formats/aminer-dblp-v10.jsonl", 10)),
        *_named("dblp.json", b"[\n" + _json(*AMINER).replace(b"\n", b"\n,", 8) + b"]\n"),
    ],
    "citations_csv": lambda: _named("edges.csv", head(CITATIONS, 60)) + _named("edges.tsv", *real("acl/edges.tsv.gz", 60)),
    "papers_csv": lambda: [
        *_named("papers.csv", head(METADATA, 20), b'id,title,year,fields\n1,"One,\ntwo",1998,Biology;Physics\n2,"A ""b""",n.d.,\n'),
        *_named("papers.tsv", *real("acl/nodes.tsv.gz", 30)),
        {"papers.csv": head(METADATA, 20), "edges.csv": head(CITATIONS, 60)},
    ],
    "parquet": lambda: [
        {"edges.parquet": _parquet(citing=[1, 2, 3, None] * 5, cited=[2, 3, 9, 1] * 5)},
        {"p.parquet": _parquet(id=["a", "b"], title=["A", None], year=[1998, 20011], fields=[["x", None], []], references=["b c", ""])},
    ],
    "zip": lambda: _named(
        "dump.zip",
        _zip(icite__md=b"", edges__csv=head(CITATIONS, 60)),
        _zip(a__jsonl=head(DATA / "everything_wrong_s2.jsonl", 99), b__csv__gz=gzip.compress(head(CITATIONS, 60))),
    ),
}
TEXTS = ("jsonl", "csv", "tsv", "txt", "json")  # endings of what is also tried compressed
JSON_TOKENS = [
    *("null true false -1 0 -0 20011 1998.0 1e999 NaN Infinity 2147483648 9223372036854775808 18446744073709551616 1e15".split()),
    *('"n.d." "1998.0" " 1998 " "" " " "\\u0000" "\\ud800" "\\ud83d\\ude00" "a\\nb" "W1" "1234567890123456" [] {} [null]'.split(" ")),
    '[1,"a",{},[],null,true]', '["a","a",""," ","\\u0000"]', '["' + "x" * 70_000 + '"]', '"' + "é" * 70_000 + '"', "1" * 5_000,
    "[" * 600 + "]" * 600, '{"a":' * 600 + "1" + "}" * 600, "[" * 100_000, '"\xff"', "[" + "1," * 20_000 + "1]",
]  # fmt: skip
CELLS = ["", " ", '"', '""', '"a', 'a"b', "\0", "20011", "n.d.", "1998.0", "-1", "99999999999999999999", "1.5", "nan", "é", "\ud800",
         "a,b", "a\tb", "a\nb", "a\r", "x" * 200_000, "\u2028", "\ufeff", "W1", "1e9"]  # fmt: skip
BYTES = [b"\0", b"\0" * 5_000, b"\xff", b"\xed\xa0\x80", b"\xc3", b'"', b"\n", b"\r\n", b"\n\n\n", b",", b"{", b"}", b"[", b"\\",
         b"\x1f\x8b", b"PK\x03\x04", b"PAR1", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1a", b" " * 300]  # fmt: skip


def mutated(dump: dict[str, bytes], rng: random.Random) -> dict[str, bytes]:
    """A dump with one of its files changed in one to four ways, perhaps compressed, perhaps damaged after that."""
    name = rng.choice(sorted(dump))
    data, ending = dump[name], name.rpartition(".")[2]
    special = {
        "jsonl": [_json_line] * 4,
        "csv": [_cell] * 4 + [_header],
        "tsv": [_cell] * 4 + [_header],
        "parquet": [_table],
        "zip": [_member] * 4,
    }
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice([*special.get(ending, ()), _lines, _bytes, _bytes])(data, rng)
    form = rng.randrange(10) if ending in TEXTS else rng.randrange(5, 30)
    if form < 3:
        name, data = f"{name}.gz", gzip.compress(data[: len(data) // 2], 1) + gzip.compress(data[len(data) // 2 :], 1)
    elif form < 5:
        path = rng.choice([*[name, f"folder/{name}"] * 4, f"../{name}", "a\nb.csv", "a\n/b.csv"])
        with zipfile.ZipFile(file := io.BytesIO(), "w", rng.choice((0, 8, 12, 14))) as archive:
            archive.writestr(path, data)
        name, data = "dump.zip", file.getvalue()
    elif form < 6:
        name = rng.choice([f"{name}.gz", "dump.zip", "dump.json", "dump.txt", "dump.parquet"])
    if form < 5 and rng.random() < 0.6:
        data = _bytes(data, rng)
    return {**{other: content for other, content in dump.items() if other != name}, name: data}


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, inserted, deleted, repeated, cut off."""
    way, place = rng.randrange(9), rng.randrange(len(data) + 1)
    end = rng.random() < 0.3  # trailers, footers and directories stand at the end
    if end:
        place = max(0, len(data) - rng.randrange(1, 60))
    if way < 3:
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 3, 8)) if data else 0):
            changed[min(place, len(data) - 1)] ^= 1 << rng.randrange(8)
            place = rng.randrange(len(data))
        return bytes(changed)
    if way < 5:
        return data[:place] + (rng.choice(BYTES) if way == 3 else rng.randbytes(rng.choice((1, 4, 40)))) + data[place:]
    if way == 5:
        return data[:place] + data[place + rng.choice((1, 2, 30, 1000)) :]
    if way == 6:
        return data[:place] + data[max(0, place - rng.choice((1, 8, 500))) :]
    return data[:place]


def _lines(data: bytes, rng: random.Random) -> bytes:
    """Lines cut, joined, doubled, moved; other ends of lines, byte order marks, nothing at all."""
    lines = data.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    return b"\n".join(
        [
            lambda: lines[:i],
            lambda: [*lines[:i], b"".join(lines[i : i + 2]), *lines[i + 2 :]],
            lambda: [*lines[:i], lines[j], *lines[i:]],
            lambda: [*lines[:i], *lines[i + 1 :]],
            lambda: [line + b"\r" for line in lines],
            lambda: [line.replace(b"\n", b"\r") for line in lines],
            lambda: [b"\xef\xbb\xbf" + lines[0], *lines[1:]],
            lambda: [data.decode("utf-8", "replace").encode("utf-16")],
            lambda: [data.decode("utf-8", "replace").encode("latin-1", "replace")],
            lambda: [b"[" + lines[0] + b",", *(line + b"," for line in lines[1:]), b"]"],
            lambda: [b"", b" ", *lines],
            lambda: [rng.choice((b"", b"\n", b" \n", b"\xef\xbb\xbf", b"\0\0", b"{", b"[]", b"{}", b"null"))],
            lambda: [gzip.compress(data)],
            lambda: [*lines, *lines[::-1]],
        ][rng.randrange(14)]()
    )


def _json_line(data: bytes, rng: random.Random) -> bytes:
    """A value of one record replaced by one of another kind, removed, renamed, or its key given twice."""
    lines = data.split(b"\n")
    i = rng.randrange(len(lines))
    try:
        record = json.loads(lines[i])
        places = [(record, key) for key in record]
        for node, key in places:
            if isinstance(node[key], (dict, list)) and node[key]:
                places += [(node[key], inner) for inner in (node[key] if isinstance(node[key], dict) else range(len(node[key])))][:20]
        node, key = rng.choice(places)
    except (ValueError, TypeError, IndexError, RecursionError):
        return _bytes(data, rng)
    token, way = rng.choice(JSON_TOKENS), rng.randrange(8)
    if way == 0:
        del node[key]
    elif way == 1 and isinstance(node, dict):
        node[rng.choice(["id", "title", "year", "\ud800", "", key.upper()])] = node.pop(key)
    elif way != 2:
        node[key] = "@HOLE@"
    text = json.dumps(record, ensure_ascii=rng.random() < 0.5).replace('"@HOLE@"', token)
    if way == 2 and text.startswith("{"):
        text = f"{text[:-1]}, {json.dumps(key)}: {token}}}"
    lines[i] = text.encode("latin-1" if "\xff" in token and text.isascii() else "utf-8", "surrogatepass")
    return b"\n".join(lines)


def _mark(data: bytes) -> bytes:
    return b"\t" if b"\t" in data.split(b"\n")[0] else b","


def _cell(data: bytes, rng: random.Random) -> bytes:
    """One cell replaced, added or removed."""
    lines = data.split(b"\n")
    i = rng.randrange(len(lines))
    cells = lines[i].split(_mark(data))
    j = rng.randrange(len(cells))
    new = [] if (way := rng.randrange(6)) == 0 else [rng.choice(CELLS).encode("utf-8", "surrogatepass")]
    cells[j : j + (way > 1)] = new
    return b"\n".join([*lines[:i], _mark(data).join(cells), *lines[i + 1 :]])


def _member(data: bytes, rng: random.Random) -> bytes:
    """A file in a zip archive changed, the archive whole."""
    with contextlib.suppress(Exception), zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
        return _zip(**mutated(files, rng))
    return _bytes(data, rng)


def _header(data: bytes, rng: random.Random) -> bytes:
    """Another header: names moved, doubled, quoted, renamed; another delimiter."""
    first, _, rest = data.partition(b"\n")
    names = first.split(_mark(data))
    i = rng.randrange(len(names))
    ways = [
        lambda: rng.sample(names, len(names)),
        lambda: [*names, names[i]],
        lambda: [*names[:i], b'"' + names[i] + b'"', *names[i + 1 :]],
        lambda: [*names[:i], rng.choice([b"", b"id", b"citing", b"cited", b"title", b"\xff", b'"', b"x" * 200_000]), *names[i + 1 :]],
        lambda: [name.upper() + b" " for name in names],
        lambda: names[:i],
    ]
    if rng.random() < 0.2:
        return data.replace(_mark(data), rng.choice([b";", b"\t", b"|", b",,"]))
    return _mark(data).join(rng.choice(ways)()) + b"\n" + rest


def _table(data: bytes, rng: random.Random) -> bytes:
    """Another parquet file: columns of any type, with nulls, under names of any kind."""
    kinds = [pa.int64(), pa.uint64(), pa.float64(), pa.float16(), pa.string(), pa.large_string(), pa.binary(), pa.bool_(), pa.null(),
             pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.date32(),
             pa.timestamp("ns"), pa.dictionary(pa.int32(), pa.string()), pa.decimal128(20, 2)]  # fmt: skip
    values = [None, 1, -1, 2**53 + 2, 1998, 20011, 0.5, float("nan"), "a", "1", " ", "\0", b"\xff", True, ["a", None], [1], {"a": 1}]
    columns = rng.choice([["citing", "cited"], ["id", "title", "year", "venue", "fields", "doi", "pmid", "references"]])
    arrays, rows = [], rng.choice((0, 1, 20))
    for _ in columns:
        kind, array = rng.choice(kinds), []
        for _ in range(rows):
            with contextlib.suppress(pa.ArrowException, TypeError, ValueError, OverflowError):
                value = rng.choice(values)
                array.append(pa.array([value], kind)[0].as_py())
        arrays.append(pa.array(array + [None] * (rows - len(array)), kind))
    names = [rng.choice(["id", "a\nb", "", name]) if rng.random() < 0.1 else name for name in columns]
    try:
        pq.write_table(pa.table(arrays, names), file := io.BytesIO(), compression=rng.choice(["none", "snappy", "zstd", "gzip"]))
    except pa.ArrowException:  # a type that parquet does not have
        return data
    return file.getvalue()


def read_one(reader: str, seed: int, i: int, work: Path, _seeds: dict = {}) -> str:  # noqa: B006
    """Read input i of a reader in the empty folder `work`; returns its class, or raises what escaped."""
    rng = random.Random(f"{seed} {reader} {i}")
    dump = rng.choice(_seeds.setdefault(reader, SEEDS[reader]()))
    dump = mutated(dump, rng) if i else dump
    folder, run = work / "dump", work / "run"
    for path in (folder, run):
        path.mkdir()
    for name, data in dump.items():
        (folder / name).write_bytes(data)
    paths = [folder] if len(dump) > 1 else [folder / name for name in dump]
    settings = dict(
        subset=rng.choice(("all", "all", "cs", "medline")),
        keep_unrecorded=rng.random() < 0.7,
        first_year=rng.choice((None, None, 1990)),
        field=rng.choice(("", "", "biology")),
        max_bad_fraction=rng.choice((0.01, 1.0, 1.0)),
        min_degree=rng.choice((0, 0, 2)),
    )
    config = Config.of_preset("cs", out=str(run), dumps=paths, **settings)
    whole = rng.random() < 0.15
    try:
        if whole:
            check_corpus(config, build_corpus(config))
        else:
            for number, file in enumerate(dumps.files_of(config.dumps)):
                shard = run / str(number)
                write_shard(file, shard, config.part(READING_SETTINGS))
                check_shard(shard)
                check_lines(file.path, json.loads((shard / "report.json").read_text())["read"])
        outcome = "read"
    except (DumpError, ArtefactError, ConfigError) as error:
        sentence = str(error)
        assert sentence.isprintable() and len(sentence) < 1000, f"not one sentence: {sentence[:2000]!r}"
        assert str(folder) in sentence or "No citation is left" in sentence, f"names no file: {sentence}"
        outcome = next((known for known in SENTENCES if known in sentence), re.sub(r"\S*/\S*", "...", sentence)[:60])
        assert not (run / "corpus").exists()
    left = [str(path) for path in run.rglob("*") if ".new-" in path.name or path.suffix == ".tmp"]
    assert not left, f"left behind: {left}"
    return outcome


def check_shard(shard: Path) -> None:
    """Raise AssertionError where the counts of a shard do not add up."""
    counts = json.loads((shard / "report.json").read_text())
    files = {path.stem: pa.ipc.open_file(path).read_all() for path in shard.glob("*.arrow")}
    dropped = {kind: sum(reasons.values()) for kind, reasons in counts["dropped"].items()}
    lengths = {name: len(files.get(name, ())) for name in ("records", "citations", "other_ids", "papers")}
    assert counts["read"].get("papers", 0) == lengths["records"] + dropped["papers"], counts
    assert counts["read"].get("ids", 0) == lengths["other_ids"] + dropped["ids"], counts
    listed = [int(pc.sum(pc.list_value_length(files["papers"][name])).as_py() or 0) for name in OTHER_ENDS] if "papers" in files else []
    assert counts["read"].get("citations", 0) == lengths["citations"] + sum(listed) + dropped["citations"], (counts, listed)
    assert lengths["papers"] == (pc.sum(files["records"]["inside"]).as_py() or 0 if "records" in files else 0)
    for table in files.values():
        table.validate(full=True)
        assert not any(table[name].null_count for name in table.schema.names if name not in KEPT.names), table.schema


def check_lines(path: Path, read: dict) -> None:
    """Raise AssertionError where fewer records of a plain text file were counted than it has lines: something was passed over silently."""
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if path.suffix == ".jsonl" and data[:2] != b"\x1f\x8b":
        assert read["records"] == sum(bool(line.strip(BLANK)) for line in data.split(b"\n"))
    elif path.suffix == ".csv" and data[:2] != b"\x1f\x8b" and "citations" in read and "papers" not in read:
        assert read["records"] >= sum(bool(line.strip(b"\r")) for line in data.split(b"\n")) - 1


def check_corpus(config: Config, report: dict) -> None:
    """Raise AssertionError where the counts of a corpus do not add up, or its arrays do not fit."""
    papers, indptr, cited, _ = open_corpus(config)
    counts, N = report["papers"], len(papers)
    assert counts["read"] == counts["kept"] - report["papers_without_record"] + sum(counts["dropped"].values()), report
    assert report["citations"]["read"] == len(cited) + sum(report["citations"]["dropped"].values()), report
    assert N == counts["kept"] == len(set(papers["paper_id"].to_pylist()) - {None}), "ids are there, and differ"
    assert len(indptr) == N + 1 and indptr[0] == 0 and indptr[-1] == len(cited) and (np.diff(indptr) >= 0).all()
    citing = np.repeat(np.arange(N), np.diff(indptr))
    assert (cited >= 0).all() and (cited < N).all() and (cited != citing).all()
    assert (np.bincount(citing, minlength=N) + np.bincount(cited, minlength=N) == papers["degree"].to_numpy()).all()


def child(work: Path) -> None:
    """Read the inputs that standard input names, one answer a line."""
    answers, sys.stdout = sys.stdout, open(os.devnull, "w")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("error")
    ignored = []
    sys.unraisablehook = lambda event: ignored.append(f"Exception ignored: {event.exc_value!r}")
    for line in sys.stdin:
        reader, seed, first, last = json.loads(line)
        for i in range(first, last):
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            ignored.clear()
            try:
                outcome = read_one(reader, seed, i, work)
                assert not ignored, ignored
                answer = [outcome, ""]
            except BaseException as error:  # whatever it is, it escaped
                answer = [f"ESCAPED {type(error).__name__}", traceback.format_exc()]
            print(json.dumps(answer), file=answers, flush=True)


def _ask(process: subprocess.Popen, deadline: float) -> list | str:
    """A child's next answer, or in words how it failed to give one."""
    if not select.select([process.stdout], [], [], deadline)[0]:
        process.kill()
        return "ESCAPED hang"
    line = process.stdout.readline()
    return json.loads(line) if line else f"ESCAPED crash ({process.wait()})"


def run(readers, inputs: int, seed: int = 0, first: int = 0) -> tuple[dict[str, Counter], list[tuple[str, int, str]]]:
    """(classes of outcomes by reader, [(reader, input, what escaped)]) of so many inputs of each reader."""
    todo, outcomes, escaped = queue.SimpleQueue(), {reader: Counter() for reader in readers}, []
    for reader in readers:
        for start in range(first, first + inputs, AT_A_TIME):
            todo.put((reader, start, min(start + AT_A_TIME, first + inputs)))

    def work(folder: Path) -> None:
        process = None
        with contextlib.suppress(queue.Empty):
            while True:
                reader, i, last = todo.get_nowait()
                while i < last:
                    if process is None:
                        command = [sys.executable, *CHILD, "--child", str(folder)]
                        process = subprocess.Popen(command, stdin=-1, stdout=-1, cwd=ROOT, bufsize=0)
                    process.stdin.write(json.dumps([reader, seed, i, last]).encode() + b"\n")
                    while process and i < last:
                        answer = _ask(process, LIMIT)
                        outcome, detail = (answer, answer) if isinstance(answer, str) else answer
                        if isinstance(answer, str):
                            process.communicate()
                            process = None
                        outcomes[reader][outcome] += 1
                        if outcome.startswith("ESCAPED"):
                            escaped.append((reader, i, detail))
                        i += 1
        if process:
            process.communicate()

    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        threads = [threading.Thread(target=work, args=(Path(folder) / str(n),)) for n in range(min(2, os.cpu_count()))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return outcomes, escaped


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("readers", nargs="*", metavar="reader", choices=[*SEEDS, []], help=", ".join(SEEDS))
    for name, value in (("inputs", 20_000), ("seed", 0), ("first", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.child:
        child(asked.child)
        return 0
    outcomes, escaped = run(asked.readers or list(SEEDS), asked.inputs, asked.seed, asked.first)
    kinds = {detail.strip().rpartition("\n")[2][:60]: (reader, i, detail) for reader, i, detail in sorted(escaped, reverse=True)}
    for reader, i, detail in kinds.values():
        print(f"--- first of its kind: --seed {asked.seed} --first {i} --inputs 1 {reader}\n{detail}")
    for reader, classes in outcomes.items():
        escaping = sum(count for name, count in classes.items() if name.startswith("ESCAPED"))
        print(f"{reader}: {sum(classes.values()):,} inputs, {classes['read']:,} read, {escaping} escaping")
        print("   ", ", ".join(f"{name} {count:,}" for name, count in classes.most_common() if name != "read"))
    return bool(escaped)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
