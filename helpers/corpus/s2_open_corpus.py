"""Semantic Scholar Open Research Corpus, JSON lines (checked against records of the 2018 release; `fieldsOfStudy` came in 2019)."""

import orjson

from helpers.corpus.records import Report, text, texts, year


def recognises(record: dict) -> bool:
    """Whether a file's first record is of this format."""
    return "outCitations" in record or "inCitations" in record


def parse(line: bytes, place: str, report: Report) -> dict:
    """One line as a row of PAPERS; raises ValueError where it is not an object with a non-empty string `id`."""
    record = orjson.loads(line)
    paper_id = text(record.get("id")) if isinstance(record, dict) else None
    if paper_id is None:
        raise ValueError("no id")
    fields, sources = texts(record.get("fieldsOfStudy")), texts(record.get("sources"))
    return {
        "paper_id": paper_id,
        "title": text(record.get("title")),
        "year": year(record.get("year"), report, place),
        "venue": text(record.get("venue")) or text(record.get("journalName")),
        "fields": fields,
        "is_cs": "Computer Science" in fields if fields else "DBLP" in sources,
        "is_medline": "Medline" in sources or text(record.get("pmid")) is not None,
        "references": texts(record.get("outCitations")),
        "cited_by": texts(record.get("inCitations")),
    }
