"""Make the bundled sample: 12,000 invented papers with planted topics, in the formats of real dumps.

Run ``python data/generate.py [--out DIR]`` (seconds); ``data/README.md`` lists the files. Nothing is downloaded or
copied: PMIDs from 90,000,000 and OpenAlex ids W9... lie outside the ranges in use, DOIs have the test prefix 10.5555.
A fixed seed and gzip's mtime=0 keep the bytes stable; another zlib may compress the same content otherwise.
Letters: N papers of one domain in time order, a paper's place is its row; rows N to N + 39 are works without a record.
"""

import argparse
import csv
import gzip
import hashlib
import io
import re
import unicodedata
from pathlib import Path

import numpy as np
import orjson

HERE = Path(__file__).parent  # words.json and wrong_records.json, beside this file, hold what people wrote
SEED, PAPERS, WITHOUT_RECORD, FIRST_YEAR, LAST_YEAR = 20181031, 6000, 40, 1985, 2018
TEXTS = 6_000  # lines of the text
SHARES = (0.70, 0.15, 0.08, 0.04, 0.03)  # of references: subtopic, topic, field, other fields, anywhere


def headline(name):
    """Capitalise each word of a name (str) and leave capitals as they are: HIV infection -> HIV Infection."""
    return re.sub(r"\b[a-z]", lambda match: match[0].upper(), name)


def write_title(domain, field, topic, subtopic, used, rng):
    """Compose a title (str) from a form and the words of its topic, another one if it is in the set ``used``."""
    words, (_, objects) = domain["fields"][field], domain["fields"][field]["topics"][topic]
    for _ in range(20):
        fill = {key: rng.choice(choices) for key, choices in domain["fill"].items()}
        fill |= {"o": rng.choice(objects), "m": rng.choice(words["methods"]), "c": rng.choice(words["settings"])}
        title = rng.choice(domain["titles"]).format(t=topic, s=subtopic, **fill)
        title = title[0].upper() + title[1:]
        if title not in used:
            break
    used.add(title)
    return title


def plant_papers(domain, people, rng):
    """Draw N papers in time order: list of dicts; ``group`` is 0..119, its topic group // 4, its field // 24."""
    leaves = [
        (field, topic, subtopic)
        for field, words in domain["fields"].items()
        for topic, (subtopics, _) in words["topics"].items()
        for subtopic in subtopics
    ]
    sizes = rng.lognormal(0.0, 0.3, len(leaves))  # subtopics of about 20 to 110 papers
    groups = rng.choice(len(leaves), PAPERS, p=sizes / sizes.sum())
    growth = 1.06 ** np.arange(LAST_YEAR - FIRST_YEAR + 1)  # 6 % more papers every year
    years = np.sort(rng.choice(np.arange(FIRST_YEAR, LAST_YEAR + 1), PAPERS, p=growth / growth.sum()))
    used, papers = set(), []
    for group, year in zip(groups.tolist(), years.tolist(), strict=True):
        field, topic, subtopic = leaves[group]
        venues = [form.format(headline(field)) for form in domain["venues"]]
        venues += [f"Journal of {headline(name)} Research" for name in domain["fields"][field]["topics"]]
        authors = 11 * (group // 4) + rng.choice(16, rng.integers(1, 3), replace=False)  # topics share some
        papers.append(
            {
                "title": write_title(domain, field, topic, subtopic, used, rng),
                "venue": str(rng.choice(venues)),
                "authors": [(41_000_000 + author, people[author % len(people)]) for author in authors.tolist()],
                "year": year,
                "field": field,
                "topic": topic,
                "subtopic": subtopic,
                "group": group,
            }
        )
    return papers


def draw_references(papers, mean, rng):
    """Draw what each paper cites: list of N int64 arrays of earlier rows, about ``mean`` each, none twice.

    The circles (own subtopic, rest of the topic, ...) get their SHARES of the references; what a small circle cannot
    give comes from the next. Within a circle the chance is Pareto fitness x (1 + citations so far)^0.75 x
    exp(-age / 12 years), drawn without replacement by Gumbel keys (Efraimidis and Spirakis 2006).
    """
    group, year = (np.array([paper[key] for paper in papers]) for key in ("group", "year"))
    fitness = np.minimum(1.0 + rng.pareto(1.5, len(papers)), 40.0)  # without the bound one paper rules all
    cited, references = np.zeros(len(papers)), []
    for row in range(len(papers)):
        weight = fitness[:row] * (1.0 + cited[:row]) ** 0.75 * np.exp((year[:row] - year[row]) / 12.0)
        keys = np.log(weight) + rng.gumbel(size=row)
        same_sub, same_topic, same_field = (group[:row] // width == group[row] // width for width in (1, 4, 24))
        circles = (same_sub, same_topic & ~same_sub, same_field & ~same_topic, ~same_field, np.ones(row, bool))
        wanted = 2 + int(rng.lognormal(np.log(mean - 1.5) - 0.18, 0.6))  # mean of the lognormal: exp(mu + 0.6^2 / 2)
        wanted = min(wanted, 3 + same_sub.sum() // 2)  # the first papers of a subtopic have little of their own to cite
        free, spare = np.ones(row, bool), 0
        for circle, share in zip(circles, rng.multinomial(wanted, SHARES), strict=True):
            members = np.flatnonzero(circle & free)
            chosen = members[np.argsort(-keys[members])][: share + spare]
            spare += share - len(chosen)
            free[chosen] = False
        references.append(rng.permutation(np.flatnonzero(~free)))
        cited[~np.append(free, np.ones(len(papers) - row, bool))] += 1
    for row in rng.choice(len(papers), len(papers) // 50, replace=False):
        references[row] = np.append(references[row], len(papers) + rng.integers(WITHOUT_RECORD))
    return references


def s2_record(paper_id, title, **fields):
    """Build a record (dict) of the S2 Open Research Corpus, release of 2019; ``fields`` replace the empty defaults."""
    return {
        "entities": [],
        "journalVolume": "",
        "journalPages": "",
        "pmid": "",
        "fieldsOfStudy": ["Computer Science"],
        "year": None,
        "outCitations": [],
        "s2Url": f"https://semanticscholar.org/paper/{paper_id}",
        "s2PdfUrl": "",
        "id": paper_id,
        "authors": [],
        "journalName": "",
        "paperAbstract": "",
        "inCitations": [],
        "pdfUrls": [],
        "title": title,
        "doi": "",
        "sources": ["DBLP"],
        "doiUrl": "",
        "venue": "",
    } | fields


def s2_lines(papers, references, ids, rng):
    """Write the papers as S2 records in random order: bytes, JSONL; ``ids`` are N + 40 strings of 40 hex digits."""
    citing = [[] for _ in ids]
    for row, cited_rows in enumerate(references):
        for cited in cited_rows:
            citing[cited].append(ids[row])
    lines = []
    for row in rng.permutation(len(papers)):
        paper = papers[row]
        record = s2_record(
            ids[row],
            paper["title"],
            year=paper["year"],
            venue=paper["venue"],
            journalName=paper["venue"],
            authors=[{"name": name, "ids": [str(number)]} for number, name in paper["authors"]],
            doi=f"10.5555/cs.{row}",
            outCitations=[ids[cited] for cited in references[row]],
            inCitations=citing[row],
        )
        if row % 4 == 0:
            record["paperAbstract"] = f"We study {paper['subtopic']} and report results on {paper['topic']}."
        if row % 10 == 3:
            del record["fieldsOfStudy"]  # as in the release of 2018, where only sources tells computer science
        if paper["year"] is None:
            del record["year"]
        lines.append(orjson.dumps(record))
    return b"\n".join(lines) + b"\n"


def openalex_lines(papers, references, works, pmids, rng):
    """Write the papers as OpenAlex works in random order: bytes, JSONL; ``works`` and ``pmids`` are int64 (N + 40,)."""
    url, lines = "https://openalex.org/", []
    for row in rng.permutation(len(papers)):
        paper, work, doi = papers[row], f"{url}W{works[row]}", f"https://doi.org/10.5555/med.{row}"
        pmid = f"https://pubmed.ncbi.nlm.nih.gov/{pmids[row]}"
        lines.append(
            orjson.dumps(
                {
                    "id": work,
                    "doi": doi,
                    "title": paper["title"],
                    "display_name": paper["title"],
                    "publication_year": paper["year"],
                    "ids": {"openalex": work, "doi": doi, "mag": str(works[row]), "pmid": pmid},
                    "primary_location": {"source": {"display_name": paper["venue"], "type": "journal"}},
                    "type": "article",
                    "indexed_in": ["crossref", "pubmed"],
                    "primary_topic": {
                        "id": f"{url}T{90000 + paper['group'] // 4}",
                        "display_name": paper["topic"],
                        "field": {"id": f"{url}fields/27", "display_name": "Medicine"},
                        "domain": {"id": f"{url}domains/4", "display_name": "Health Sciences"},
                    },
                    "referenced_works": [f"{url}W{number}" for number in sorted(works[references[row]].tolist())],
                }
            )
        )
    return b"\n".join(lines) + b"\n"


def csv_bytes(header, rows):
    """Write a table as CSV: bytes; ``header`` is its first line, ``rows`` an iterable of sequences."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header.split(","), *rows])
    return text.getvalue().encode()


def nih_tables(papers, references, pmids):
    """Write the papers as NIH iCite's two tables: bytes citations, bytes metadata (scores, references stay empty)."""
    header = (
        "pmid,doi,title,authors,year,journal,is_research_article,relative_citation_ratio,nih_percentile,human,"
        "animal,molecular_cellular,x_coord,y_coord,apt,is_clinical,citation_count,citations_per_year,"
        "expected_citations_per_year,field_citation_rate,provisional,cited_by_clin,cited_by,references"
    )
    citations = [(pmids[row], pmids[cited]) for row, rows in enumerate(references) for cited in np.sort(rows)]
    metadata = [
        [
            pmids[row],
            f"10.5555/med.{row}",
            paper["title"],
            ", ".join(name for _, name in paper["authors"]),
            paper["year"],
            paper["venue"],
            "True",
            *[""] * 17,
        ]
        for row, paper in enumerate(papers)
    ]
    return csv_bytes("citing,referenced", citations), csv_bytes(header, metadata)


def wrong_files():
    """Write the file of wrong records and its truth: bytes JSONL, bytes JSON; of a repeated id the last counts."""
    text = (HERE / "wrong_records.json").read_bytes()
    source = orjson.loads(re.sub(rb"<(\d\d)>", lambda match: match[1] * 20, text))
    records = {entry[0]: entry for entry in source["lines"] if len(entry) == 4}
    ids = {number: f"{number:02d}" * 20 for number in range(100)}
    edges = sorted({(row, to) for row, cites, *_ in records.values() for to in cites if to in records and to != row})
    lines, bad = [], {}
    for place, entry in enumerate(source["lines"], 1):
        if len(entry) == 2:
            lines.append(entry[0].encode("latin-1"))
            bad[place] = entry[1]
            continue
        number, cites, title, changed = entry
        fields = {
            "year": 2000 + number % 18,
            "authors": [{"name": "Mara Lindqvist", "ids": ["41000000"]}],
            "outCitations": [ids[to] for to in cites],
            "inCitations": [ids[row] for row, to in edges if to == number],
        }
        record = s2_record(ids[number], title, **fields | changed)
        lines.append(orjson.dumps({key: value for key, value in record.items() if value != "absent"}))
    expected = {"lines": len(lines), "blank": [place for place, reason in bad.items() if reason == "blank"]}
    expected["malformed"] = {str(place): reason for place, reason in bad.items() if reason != "blank"}
    expected |= source["truth"] | {
        "papers": [ids[number] for number in sorted(records)],
        "citations": len(edges),
        "edges": [[ids[row], ids[to]] for row, to in edges],
    }
    rows = [f"{orjson.dumps(key).decode()}: {orjson.dumps(value).decode()}" for key, value in expected.items()]
    return b"\n".join(lines), ("{\n" + ",\n".join(rows) + "\n}\n").encode()


def text_lines(words, rng):
    """Write a text with planted topics and analogies: bytes, a text a line, as people write, with capitals, commas and numbers.

    A line is of one topic, or of one word of the grid between words of its row and of its column: so lion : lioncub = bear : bearcub.
    """
    topics = [names.split() for names in words["topics"].values()]
    fillers = {name: names.split() for name, names in words["filler"].items()}
    rows, columns = ([names.split() for names in words["grid"][part].values()] for part in ("rows", "columns"))
    grid, lines = [names.split() for names in words["grid"]["words"].values()], []
    chances = 1 / (3 + np.arange(18))  # of a topic's words: the first comes seven times as often as the last
    for _ in range(TEXTS):
        if rng.random() < 0.3:
            row, column = rng.integers(len(rows)), rng.integers(len(columns))
            line = [grid[row][column], *rng.choice(rows[row], 3, replace=False), *rng.choice(columns[column], 3, replace=False)]
            line = [*rng.permutation(line), *rng.choice(fillers["en"], 1)]
        else:
            topic = topics[rng.integers(len(topics))]
            filler = fillers["en" if topic[0].isascii() else "ru"]
            line = rng.choice(topic, rng.integers(6, 14), p=chances / chances.sum()).tolist()
            line = [rng.choice(filler) if rng.random() < 0.4 else word for word in line]
        if rng.random() < 0.1:
            line.insert(rng.integers(len(line)), str(rng.integers(1900, 2020)))
        line = " ".join(f"{word}," if rng.random() < 0.1 else word for word in line) + "."
        line = line[0].upper() + line[1:]
        lines.append(unicodedata.normalize("NFD", line) if rng.random() < 0.1 else line)  # й as two characters, as some programs write it
    return ("\n".join(lines) + "\n").encode()


def make_files():
    """Make every file of the sample: dict of file name -> uncompressed bytes."""
    rng, words = np.random.default_rng(SEED), orjson.loads((HERE / "words.json").read_bytes())
    people = [f"{words['given'][7 * n % 23]} {words['surnames'][n % 30]}" for n in range(23 * 30)]  # all different
    planted, cited = {}, {}
    for domain, mean in (("Computer Science", 7.6), ("Medicine", 9.4)):  # a citation costs 45 bytes in CS, 12 here
        planted[domain] = plant_papers(words[domain], people, rng)
        cited[domain] = draw_references(planted[domain], mean, rng)
        for row in rng.choice(PAPERS, 6, replace=False):
            planted[domain][row]["year"] = None  # only now: its place in time is used already
    cs, medline = planted["Computer Science"], planted["Medicine"]
    ids = [hashlib.sha1(f"bundled sample, paper {row}".encode()).hexdigest() for row in range(PAPERS + WITHOUT_RECORD)]
    pmids = 90_000_000 + np.cumsum(rng.integers(1, 40, PAPERS + WITHOUT_RECORD))
    works = 9_000_000_000 + rng.choice(900_000_000, PAPERS + WITHOUT_RECORD, replace=False)
    citations, metadata = nih_tables(medline, cited["Medicine"], pmids)
    wrong, expected = wrong_files()
    topics = [(ids[row], "", "cs", p["field"], p["topic"], p["subtopic"]) for row, p in enumerate(cs)]
    topics += [(f"W{works[row]}", pmids[row], "medline", p["field"], p["topic"], p["subtopic"]) for row, p in enumerate(medline)]
    return {
        "cs_s2_open_corpus.jsonl.gz": s2_lines(cs, cited["Computer Science"], ids, rng),
        "medline_openalex_works.jsonl.gz": openalex_lines(medline, cited["Medicine"], works, pmids, rng),
        "medline_nih_citations.csv.gz": citations,
        "medline_nih_metadata.csv.gz": metadata,
        "topics.csv.gz": csv_bytes("paper_id,pmid,domain,field,topic,subtopic", topics),
        "topics_text.txt.gz": text_lines(words["Text"], np.random.default_rng(SEED)),
        "everything_wrong_s2.jsonl": wrong,
        "everything_wrong_s2.expected.json": expected,
    }


def main():
    """Write the files into --out (default: beside this module) and print the bytes of each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write into (made if missing)")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in make_files().items():
        if name.endswith(".gz"):
            packed = io.BytesIO()
            with gzip.GzipFile("", "wb", 9, packed, mtime=0) as file:
                file.write(content)
            content = packed.getvalue()
        (folder / name).write_bytes(content)
        print(f"{len(content):>9,} bytes  {folder / name}")


if __name__ == "__main__":
    main()
