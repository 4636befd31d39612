"""OpenAlex works, JSON lines (checked against records of the 2023 snapshot schema and the documented 2025 one)."""

import msgspec

from helpers.corpus.json_lines import NO_IDS, wanted
from helpers.corpus.records import PAPERS, mapping, named, text, texts

SCHEMA = PAPERS
CS, PREFIX = "17", "https://openalex.org/"
FIELDS = "id title display_name publication_year ids primary_topic concepts primary_location host_venue"
Record = wanted(FIELDS, id_lists="referenced_works")


def recognises(record: dict) -> bool:
    """Whether a file's first record is of this format."""
    return "referenced_works" in record or str(record.get("id", "")).startswith(PREFIX + "W")


def _short(url) -> str | None:
    """`W123` from `https://openalex.org/W123`."""
    return text(url).rsplit("/", 1)[-1] if text(url) else None


def row(record: Record) -> tuple:
    """The values of PAPERS; raises ValueError where there is no id."""
    paper_id = _short(record.id)
    if not paper_id:
        raise ValueError("no id")
    topic_field = mapping(mapping(record.primary_topic).get("field"))
    concepts = record.concepts if isinstance(record.concepts, list) else []
    fields = named([topic_field, *(concept for concept in concepts if mapping(concept).get("level") == 0)], "display_name")
    venue = mapping(mapping(record.primary_location).get("source")) or mapping(record.host_venue)
    references = bytes(record.referenced_works).replace(b'"' + PREFIX.encode(), b'"')
    if b"/" in references or b"\\" in references:  # other addresses
        references = msgspec.json.encode([_short(work) for work in texts(msgspec.json.decode(references))])
    title, is_medline = text(record.title) or text(record.display_name), text(mapping(record.ids).get("pmid")) is not None
    is_cs = _short(str(topic_field.get("id", ""))) == CS or "Computer science" in fields
    venue = text(venue.get("display_name"))
    return paper_id, title, record.publication_year, venue, fields, is_cs, is_medline, msgspec.Raw(references), NO_IDS
