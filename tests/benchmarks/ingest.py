"""Reading dumps and making pairs beside DuckDB and pandas: each side in a process of its own, rates a CPU-second, peak memory.

The dumps are synthetic but of realistic records (an S2 paper is about 830 bytes compressed, with 10 references and 10 citations); the
graph is Medline's size: 14,886,544 papers, 150 million citations, given as 64-bit ids. DuckDB and pandas keep what we keep of a record.
"""

import gzip
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from helpers.config import ROOT, Config
from helpers.corpus.build import combine, open_corpus
from helpers.corpus.dumps import DumpFile
from helpers.corpus.records import CITATIONS, Report
from helpers.corpus.shards import READING_SETTINGS, write_shard
from helpers.pairs.build import Pairs, build_pairs
from tests.benchmarks import pairs_rates

MEDLINE = (14_886_544, 150_000_000)  # papers, citations
PANDAS_SHARE = 10  # pandas reads a tenth of the records: it is that slow
WARM_UP = 2000  # records read before, so that no kernel is compiled within a measurement


def run(quick: bool = False) -> dict[str, float]:
    """The figures of issue 5; `quick` takes small inputs."""
    papers, (N, E) = (50_000, (200_000, 2_000_000)) if quick else (1_000_000, MEDLINE)
    with tempfile.TemporaryDirectory(dir=".") as place:  # here, not in /tmp, which may be memory
        folder = Path(place)
        figures = json_figures(folder, papers) | occ_figures(folder, 20 * papers) | medline_figures(folder, N, E)
    return figures | pairs_rates.run(quick)


def json_figures(folder: Path, papers: int) -> dict[str, float]:
    """Rates of the two JSON readers, and beside DuckDB and pandas."""
    s2, some, works = folder / "s2.jsonl.gz", folder / "some.jsonl.gz", folder / "works.jsonl.gz"
    write_s2(s2, papers)
    write_s2(some, papers // PANDAS_SHARE)
    write_works(works, papers // 2)
    ours, duckdb, pandas, openalex = (measured(*side) for side in (("ours", s2), ("duckdb_s2", s2), ("pandas_s2", some), ("ours", works)))
    megabytes = s2.stat().st_size / 1e6
    print(f"S2: {papers:,} records, {megabytes:.0f} MB compressed; OpenAlex: {papers // 2:,} works, {works.stat().st_size / 1e6:.0f} MB")
    for name, side, count in (("ours", ours, papers), ("DuckDB", duckdb, papers), ("pandas", pandas, papers // PANDAS_SHARE)):
        print(
            f"  {name}: {count / side['cpu']:,.0f} papers a CPU-second, {side['cpu']:.1f} CPU-s, peak {side['peak_gb']:.2f} GB", flush=True
        )
    for path in (s2, some, works):
        path.unlink()
    return {
        "s2_gz_mb_per_cpu_s": megabytes / ours["cpu"],
        "s2_papers_per_cpu_s": papers / ours["cpu"],
        "s2_vs_duckdb": duckdb["cpu"] / ours["cpu"],
        "s2_vs_pandas": PANDAS_SHARE * pandas["cpu"] / ours["cpu"],
        "s2_peak_gb": ours["peak_gb"],
        "s2_duckdb_peak_gb": duckdb["peak_gb"],
        "openalex_works_per_cpu_s": papers / 2 / openalex["cpu"],
        "openalex_peak_gb": openalex["peak_gb"],
    }


def occ_figures(folder: Path, rows: int) -> dict[str, float]:
    """Rate of the edge list reader on NIH's citation collection."""
    path, generator = folder / "occ.csv", np.random.default_rng(0)
    with open(path, "w") as file:
        file.write("citing,referenced\n")
        for first in range(0, rows, 1_000_000):
            ids = generator.integers(1, 39_000_000, (min(1_000_000, rows - first), 2))
            file.write("\n".join(f"{citing},{cited}" for citing, cited in ids.tolist()) + "\n")
    side = measured("ours", path)
    print(f"NIH citations: {rows:,} rows, {side['cpu']:.1f} CPU-s, peak {side['peak_gb']:.2f} GB", flush=True)
    path.unlink()
    return {"occ_rows_per_cpu_s": rows / side["cpu"], "occ_peak_gb": side["peak_gb"]}


def medline_figures(folder: Path, N: int, E: int) -> dict[str, float]:
    """Ids, CSR, held-out split, pairs and noise of a graph of Medline's size, from 64-bit ids; the id step beside DuckDB."""
    shard = folder / "run" / "shards" / "00000-ids"
    shard.mkdir(parents=True)
    write_ids(shard, N, E)
    given = sum(file.stat().st_size for file in shard.iterdir())
    most, watching = [0], threading.Event()

    def watch():
        while not watching.wait(0.2):
            most[0] = max(most[0], sum(file.stat().st_size for file in (folder / "run").rglob("*") if file.exists()) - given)

    watcher = threading.Thread(target=watch)
    watcher.start()
    ours = measured("medline", folder / "run")
    watching.set()
    watcher.join()
    print(
        f"{N:,} papers, {E:,} citations: ids and CSR {ours['ids']:.1f} CPU-s, split, pairs and noise {ours['cpu'] - ours['ids']:.1f}; "
        f"{ours['wall']:.0f} s; peak {ours['peak_gb']:.2f} GB; {most[0] / 1e9:.2f} GB of disk; {ours['citations']:,} citations kept",
        flush=True,
    )
    duckdb = measured("duckdb_ids", shard)
    print(f"  DuckDB, ids: {duckdb['cpu']:.1f} CPU-s, peak {duckdb['peak_gb']:.2f} GB; {duckdb['citations']:,} citations kept", flush=True)
    return {
        "medline_cpu_s": ours["cpu"],
        "medline_ids_cpu_s": ours["ids"],
        "medline_peak_gb": ours["peak_gb"],
        "medline_disk_gb": most[0] / 1e9,
        "ids_vs_duckdb": duckdb["cpu"] / ours["ids"],
        "ids_duckdb_peak_gb": duckdb["peak_gb"],
    }


def measured(side: str, path: Path) -> dict[str, float]:
    """What a side prints of itself, run as a process of its own: cpu, wall (seconds), peak_gb."""
    command = [sys.executable, "-m", "tests.benchmarks.ingest", side, str(path.resolve())]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def write_s2(path: Path, papers: int) -> None:
    """S2 Open Research Corpus, JSON lines: abstracts and titles of random words, ids of 40 hexadecimal digits."""
    generator = np.random.default_rng(0)
    words = ["".join(map(chr, generator.integers(97, 123, length))) for length in generator.integers(2, 12, 30_000)]
    text = [words[word] for word in (len(words) ** generator.random(2_000_000)).astype(int).tolist()]  # Zipf's law
    with gzip.open(path, "wb", compresslevel=6) as file:
        for first in range(0, papers, 10_000):
            size = min(10_000, papers - first)
            ids = generator.bytes(20 * 21 * size).hex()
            counts = generator.integers(0, 21, (size, 2)).tolist()
            places = generator.integers(0, len(text) - 200, size).tolist()
            lines = []
            for i in range(size):
                own = [ids[40 * (21 * i + k) : 40 * (21 * i + k + 1)] for k in range(21)]
                outgoing, incoming = counts[i][0] // 2, counts[i][1] // 2
                place = places[i]
                record = {
                    "entities": text[place : place + 6], "journalVolume": "12", "journalPages": "1-10", "year": 1990 + i % 30,
                    "pmid": str(place) if i % 3 else "",
                    "outCitations": own[1 : 1 + outgoing], "s2Url": f"https://semanticscholar.org/paper/{own[0]}", "s2PdfUrl": "",
                    "id": own[0], "authors": [{"name": f"{text[place]} {text[place + 1]}", "ids": [str(place)]}] * 3,
                    "journalName": text[place + 3], "paperAbstract": " ".join(text[place : place + 110]),
                    "inCitations": own[11 : 11 + incoming], "pdfUrls": [], "title": " ".join(text[place + 120 : place + 130]),
                    "doi": f"10.1234/{text[place + 1]}.{place}",
                    "sources": ["DBLP"], "fieldsOfStudy": ["Computer Science"], "doiUrl": "", "venue": text[place + 4],
                }  # fmt: skip
                lines.append(json.dumps(record))
            file.write(("\n".join(lines) + "\n").encode())


def write_works(path: Path, works: int) -> None:
    """OpenAlex works, JSON lines, from one real-shaped record of the project's sample, ids and references replaced."""
    generator = np.random.default_rng(0)
    with gzip.open(ROOT / "data" / "medline_openalex_works.jsonl.gz", "rt") as file:
        samples = [json.loads(next(file)) for _ in range(200)]
    with gzip.open(path, "wb", compresslevel=6) as file:
        for first in range(0, works, 10_000):
            lines = []
            for i in range(first, min(first + 10_000, works)):
                cited = generator.integers(1, 4_000_000_000, 15).tolist()
                lines.append(
                    json.dumps(
                        {
                            **samples[i % 200],
                            "id": f"https://openalex.org/W{i + 1}",
                            "referenced_works": [f"https://openalex.org/W{work}" for work in cited],
                        }
                    )
                )
            file.write(("\n".join(lines) + "\n").encode())


def write_ids(shard: Path, N: int, E: int) -> None:
    """A shard of an edge list: E citations among N papers of random PMID-like ids, heavy-tailed, a few doubles among them."""
    generator = np.random.default_rng(0)
    names = generator.permutation(np.arange(1, N + 1, dtype=np.uint64) * np.uint64(3))
    schema = pa.schema([("citing", pa.uint64()), ("cited", pa.uint64())])
    with pa.ipc.new_file(str(shard / "citations.arrow"), schema) as file:
        for first in range(0, E, 5_000_000):
            size = min(5_000_000, E - first)
            ends = [names[(generator.random(size) ** power * N).astype(np.int64)] for power in (1, 4)]
            file.write_table(pa.table(ends, schema=schema), max_chunksize=1 << 18)  # rows a batch, about as many as a CSV's
    report = Report()
    report.count(CITATIONS, E)
    facts = {"read": report.read, "dropped": report.dropped, "incomplete": report.incomplete, "first": report.first}
    (shard / "report.json").write_text(json.dumps(facts))


def ours(path: Path) -> dict:
    """Read one file as notebook 01 does, into a shard."""
    settings = Config.of_preset("cs", subset="all").part(READING_SETTINGS)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        if path.suffix == ".gz":
            warm = Path(folder) / "warm.jsonl"
            with gzip.open(path) as file:
                warm.write_bytes(b"".join(next(file) for _ in range(WARM_UP)))
        else:
            warm = Path(folder) / "warm.csv"
            warm.write_text("citing,cited\n1,2\n")
        write_shard(DumpFile(warm), Path(folder) / "warm", settings)
        return timed(lambda: write_shard(DumpFile(path), Path(folder) / "shard", settings))


def duckdb_s2(path: Path) -> dict:
    """The same columns by DuckDB, into parquet, with all cores."""
    import duckdb

    columns = {
        "id": "VARCHAR", "title": "VARCHAR", "year": "INTEGER", "venue": "VARCHAR", "journalName": "VARCHAR", "fieldsOfStudy": "VARCHAR[]",
        "sources": "VARCHAR[]", "doi": "VARCHAR", "pmid": "VARCHAR", "outCitations": "VARCHAR[]", "inCitations": "VARCHAR[]",
    }  # fmt: skip
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        query = f"COPY (SELECT * FROM read_json('{path}', format='newline_delimited', columns={columns})) TO '{folder}/s2.parquet'"
        return timed(lambda: duckdb.sql(query))


def pandas_s2(path: Path) -> dict:
    """The same columns by pandas, chunk by chunk."""
    import pandas as pd

    wanted = ["id", "title", "year", "venue", "journalName", "fieldsOfStudy", "sources", "doi", "pmid", "outCitations", "inCitations"]

    def read():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            for i, chunk in enumerate(pd.read_json(path, lines=True, chunksize=20_000, dtype=False)):
                chunk[wanted].to_parquet(f"{folder}/{i}.parquet")

    return timed(read)


def medline(out: Path) -> dict:
    """Ids, CSR, split, pairs and noise from the shards in `out`."""
    shards = sorted((out / "shards").iterdir())
    warm = out.parent / "warm"
    (warm / "shards" / "0").mkdir(parents=True)
    write_ids(warm / "shards" / "0", 1000, 5000)
    for config, given in ((make(warm), [warm / "shards" / "0"]), (make(out), shards)):
        report = Report()
        report.count(CITATIONS, 1)
        ids = timed(lambda config=config, given=given, report=report: combine(config, given, report))
        pairs = timed(lambda config=config: build_pairs(config))
    N = Pairs(config).papers
    return (
        pairs
        | {"cpu": ids["cpu"] + pairs["cpu"], "wall": ids["wall"] + pairs["wall"], "ids": ids["cpu"], "papers": N}
        | {"citations": len(open_corpus(config, ["degree"])[2])}
    )


def make(out: Path) -> Config:
    return Config.of_preset("medline", subset="all", dumps=["ids"], out=str(out))


def duckdb_ids(shard: Path) -> dict:
    """Dense ids in descending degree and the citations by citing paper, without doubles and self-citations, by DuckDB."""
    import duckdb

    given = pa.ipc.open_file(str(shard / "citations.arrow")).read_all()
    with tempfile.TemporaryDirectory(dir=shard.parent) as folder:
        base = duckdb.connect(f"{folder}/ids.duckdb", config={"memory_limit": "10GB"})
        base.register("given", given)

        def number():
            base.execute("CREATE TABLE edges AS SELECT DISTINCT citing, cited FROM given WHERE citing <> cited")
            base.execute(
                "CREATE TABLE ids AS SELECT id, row_number() OVER (ORDER BY count(*) DESC) - 1 AS number FROM "
                "(SELECT citing AS id FROM edges UNION ALL SELECT cited FROM edges) GROUP BY id"
            )
            base.execute(
                "COPY (SELECT a.number::INTEGER AS citing, b.number::INTEGER AS cited FROM edges JOIN ids a ON citing = a.id "
                f"JOIN ids b ON cited = b.id ORDER BY 1, 2) TO '{folder}/csr.parquet'"
            )

        return timed(number) | {"citations": base.execute("SELECT count(*) FROM edges").fetchone()[0]}


def timed(work: Callable) -> dict:
    """CPU-seconds and seconds of some work, and the process's peak memory in 10^9 bytes."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu": cpu, "wall": wall, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


if __name__ == "__main__":
    print(
        json.dumps(
            {function.__name__: function for function in (ours, duckdb_s2, pandas_s2, medline, duckdb_ids)}[sys.argv[1]](Path(sys.argv[2]))
        )
    )
