"""Real citation data (the folder that PAPER_DATA names) as dumps that `helpers run --dump` reads: an edge list and a papers table."""

import csv
import datetime
import gzip
import os
import pickle
from pathlib import Path


def paper_data() -> Path | None:
    """The folder of real data, None where the environment variable PAPER_DATA is unset."""
    return Path(os.environ["PAPER_DATA"]).resolve() if os.environ.get("PAPER_DATA") else None


def _write(path: Path, header: list[str], rows) -> str:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return str(path)


def _lines(path: Path):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from (line.rstrip("\n") for line in file)


def cit_hepth(out: Path) -> tuple[str, str]:
    """(edge list, papers table) of arXiv hep-th; both files begin with a count, an edges line is `citing cited cited ...`."""
    folder = paper_data() / "cit-hepth"
    nodes = [line.split("\t") for line in _lines(folder / "Cit-HepTh-nodes.txt.gz")][1:]
    papers = ((node[0], f"hep-th paper {node[0]}", datetime.datetime.strptime(node[-1][:11], "%d-%b-%Y").year) for node in nodes)
    lines = [line.split("\t") for line in _lines(folder / "Cit-HepTh-edges.txt.gz")][1:]
    edges = ((line[0], cited) for line in lines for cited in line[1:])
    return _write(out / "hepth_citations.csv", ["citing", "cited"], edges), _write(
        out / "hepth_papers.csv", ["id", "title", "year"], papers
    )


def paperscape(out: Path) -> tuple[str, str]:
    """(edge list, papers table) of arXiv 1991 to 1996: `id;categories;found;total;comma-separated references;authors;title` a line."""
    papers, edges = [], []
    for file in sorted((paper_data() / "paperscape").glob("pscp-*.csv.gz")):
        for line in _lines(file):
            if line and not line.startswith("#"):
                paper_id, categories, _, _, references, _, title = line.split(";", 6)
                papers.append((paper_id, title, file.name[5:9], categories.replace(",", ";")))
                edges.extend((paper_id, reference) for reference in references.split(",") if reference)
    return (
        _write(out / "paperscape_citations.csv", ["citing", "cited"], edges),
        _write(out / "paperscape_papers.csv", ["id", "title", "year", "fields"], papers),
    )


def linqs_pubmed(out: Path) -> str:
    """Edge list of PubMed's diabetes papers in PMIDs; after two lines of header, `number paper:CITING | paper:CITED` a line."""
    lines = [line.split("\t") for line in _lines(paper_data() / "linqs-pubmed" / "Pubmed-Diabetes.DIRECTED.cites.tab.gz")][2:]
    edges = ([end.removeprefix("paper:") for end in (line[1], line[3])] for line in lines)
    return _write(out / "pubmed_citations.csv", ["citing", "cited"], edges)


def planetoid(out: Path, name: str) -> str:
    """Edge list of Cora, Citeseer or Pubmed: {paper: neighbours}, each link at both its ends; here the smaller number cites, both times."""
    graph = pickle.loads((paper_data() / "planetoid" / f"ind.{name}.graph").read_bytes(), encoding="latin1")
    edges = (sorted([paper, other]) for paper, others in graph.items() for other in others)
    return _write(out / f"{name}_citations.csv", ["citing", "cited"], edges)


def acl() -> tuple[str, str]:
    """(edge list, papers table) of NLP papers and what they cite: read as they are."""
    folder = paper_data() / "acl"
    return str(folder / "edges.tsv.gz"), str(folder / "nodes.tsv.gz")
