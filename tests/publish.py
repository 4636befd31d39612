"""Put the project's public address and tag into badges, setup cells, README and `helpers/environment.py`.

`python -m tests.publish https://github.com/OWNER/NAME [TAG]`: once, when the project gets an address, and for every release.
"""

import sys
from pathlib import Path

from helpers.config import ROOT
from helpers.environment import REPOSITORY, TAG

# What the address and the tag look like in the constant, a setup cell (a notebook's JSON), a badge, a clone command.
FORMS = (
    '"https://github.com/{}", "{}"',
    r"\"https://github.com/{}\", \"{}\"",
    "github/{}/blob/{}/",
    "--branch {1} https://github.com/{0}",
)


def publish(address: str, tag: str = TAG, root: Path = ROOT) -> list[Path]:
    """Replace the old address and tag by new ones; returns the files that name them."""
    if not address.startswith("https://github.com/") or len(address.split("/")) != 5:
        raise SystemExit(f"{address} is not of the form https://github.com/OWNER/NAME, which Colab's badges need.")
    old, new = (of.removeprefix("https://github.com/") for of in (REPOSITORY, address))
    paths = [*sorted((root / "notebooks").glob("*.ipynb")), root / "README.md", root / "helpers" / "environment.py"]
    for path in paths:
        text = path.read_text(encoding="utf-8")
        for form in FORMS:
            text = text.replace(form.format(old, TAG), form.format(new, tag))
        path.write_text(text, encoding="utf-8")
    return paths


if __name__ == "__main__":
    for changed in publish(*sys.argv[1:3]):
        print(changed)
