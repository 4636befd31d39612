"""Semantic Scholar Open Research Corpus, JSON lines (checked against records of the 2018 release; `fieldsOfStudy` came in 2019)."""

from typing import Any

import msgspec

from helpers.corpus.records import PAPERS, text, texts

SCHEMA = PAPERS


class Record(msgspec.Struct):
    """The fields wanted of a line; all others are passed over."""

    id: Any = None
    title: Any = None
    year: Any = None
    venue: Any = None
    journalName: Any = None
    fieldsOfStudy: Any = None
    sources: Any = None
    pmid: Any = None
    outCitations: Any = None
    inCitations: Any = None


def recognises(record: dict) -> bool:
    """Whether a file's first record is of this format."""
    return "outCitations" in record or "inCitations" in record


def row(record: Record) -> tuple:
    """The values of PAPERS; raises ValueError where there is no id."""
    paper_id = text(record.id)
    if paper_id is None:
        raise ValueError("no id")
    fields, sources = texts(record.fieldsOfStudy), texts(record.sources)
    return (
        paper_id,
        text(record.title),
        record.year,
        text(record.venue) or text(record.journalName),
        fields,
        "Computer Science" in fields if fields else "DBLP" in sources,
        "Medline" in sources or text(record.pmid) is not None,
        record.outCitations if type(record.outCitations) is list else (),
        record.inCitations if type(record.inCitations) is list else (),
    )
