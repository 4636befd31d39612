"""Semantic Scholar Open Research Corpus, JSON lines (checked against records of the 2018 release; `fieldsOfStudy` came in 2019)."""

from helpers.corpus.json_lines import wanted
from helpers.corpus.records import PAPERS

SCHEMA = PAPERS
Record = wanted("id title year venue journalName fieldsOfStudy sources pmid", id_lists="outCitations inCitations")


def recognises(record: dict) -> bool:
    """Whether a file's first record is of this format."""
    return "outCitations" in record or "inCitations" in record


def row(record: Record) -> tuple:
    """The values of PAPERS; raises ValueError where there is no id."""
    paper_id, fields, sources = record.id, record.fieldsOfStudy, record.sources
    if type(paper_id) is not str or not paper_id:
        raise ValueError("no id")
    fields, sources = fields if type(fields) is list else (), sources if type(sources) is list else ()
    is_cs, is_medline = "Computer Science" in fields if fields else "DBLP" in sources, "Medline" in sources or bool(record.pmid)
    venue = record.venue or record.journalName
    return paper_id, record.title, record.year, venue, fields, is_cs, is_medline, record.outCitations, record.inCitations
