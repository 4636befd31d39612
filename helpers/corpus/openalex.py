"""OpenAlex works, JSON lines (checked against records of the 2023 snapshot schema and the documented 2025 one)."""

import orjson

from helpers.corpus.records import Report, text, texts, year


def recognises(record: dict) -> bool:
    """Whether a file's first record is of this format."""
    return "referenced_works" in record or str(record.get("id", "")).startswith("https://openalex.org/W")


def _short(url) -> str | None:
    """`W123` from `https://openalex.org/W123`."""
    return text(url).rsplit("/", 1)[-1] if text(url) else None


def _object(value) -> dict:
    return value if isinstance(value, dict) else {}


def parse(line: bytes, place: str, report: Report) -> dict:
    """One line as a row of PAPERS; raises ValueError where it is not an object with an id."""
    record = orjson.loads(line)
    paper_id = _short(record.get("id")) if isinstance(record, dict) else None
    if not paper_id:
        raise ValueError("no id")
    topic_field = _object(_object(record.get("primary_topic")).get("field"))
    concepts = [concept for concept in record.get("concepts") or [] if isinstance(concept, dict) and concept.get("level") == 0]
    fields = [
        name for name in [text(topic_field.get("display_name")), *(text(concept.get("display_name")) for concept in concepts)] if name
    ]
    venue = _object(_object(record.get("primary_location")).get("source")) or _object(record.get("host_venue"))
    return {
        "paper_id": paper_id,
        "title": text(record.get("title")) or text(record.get("display_name")),
        "year": year(record.get("publication_year"), report, place),
        "venue": text(venue.get("display_name")),
        "fields": list(dict.fromkeys(fields)),
        "is_cs": _short(str(topic_field.get("id", ""))) == "17" or "Computer science" in fields,
        "is_medline": text(_object(record.get("ids")).get("pmid")) is not None,
        "references": [_short(work) for work in texts(record.get("referenced_works"))],
        "cited_by": [],
    }
