"""AMiner's DBLP citation network, releases v10 to v12 and v14 (checked against records of v10 and the described forms of v12 and v14).

v10 and v11 are JSON lines; v12 and v14 one JSON array with an object a line. All of it is computer science.
"""

import re

from helpers.corpus.json_lines import wanted
from helpers.corpus.records import PAPERS, identifier, mapping, named, text

SCHEMA = PAPERS
recognises = {"id", "n_citation"}.issubset  # a record of this format
Record = wanted("id title year venue fos references")
UNREAD = re.compile(rb"NumberInt\(\d|^#(\*|index)", re.MULTILINE)  # what v13, and the text releases, are known by
ONLY = "is a release of AMiner's DBLP that is not read (v13 is no valid JSON, those up to v8 are text); get v10, v11, v12 or v14."


def row(record: Record) -> tuple:
    """The values of PAPERS; raises ValueError where there is no id."""
    paper_id = identifier(record.id)
    if paper_id is None:
        raise ValueError("no id")
    place = mapping(record.venue)
    venue = text(record.venue) or text(place.get("raw")) or text(place.get("name_d"))
    references = [identifier(reference) for reference in record.references] if isinstance(record.references, list) else ()
    return paper_id, text(record.title), record.year, venue, named(record.fos, "name"), True, False, references, ()
