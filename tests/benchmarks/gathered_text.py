"""A real text that every development machine has: docstrings and documentation of the standard library and of installed packages."""

import ast
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("numpy", "scipy", "sklearn", "pandas", "torch", "matplotlib", "sympy", "networkx", "numba", "gensim", "IPython", "pyarrow")
DOCUMENTS = (".rst", ".md", ".txt")
LEAST = 40  # characters of a paragraph


def documents() -> Iterator[str]:
    """Docstrings of the standard library and of PACKAGES, and text files of these, file by file in name order."""
    places = [Path(sysconfig.get_path("stdlib")), *(Path(sysconfig.get_path("purelib")) / name for name in PACKAGES)]
    for place in places:
        for path in sorted(path for path in place.rglob("*") if path.suffix in (".py", *DOCUMENTS)):
            if "site-packages" in path.relative_to(place).parts or "test" in path.name:
                continue
            text = path.read_text(encoding="utf-8", errors="ignore")
            yield from _docstrings(text) if path.suffix == ".py" else [text]


def _docstrings(source: str) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError):  # files that are there to be wrong
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and (found := ast.get_docstring(node)):
            yield found


def write_text(path: Path, most: int = 1 << 40) -> int:
    """Write every paragraph once, one a line, `most` bytes at most; returns the bytes."""
    seen, written = set(), 0
    with open(path, "w", encoding="utf-8") as file:
        for document in documents():
            for paragraph in re.split(r"\n\s*\n", document):
                line = " ".join(paragraph.split())
                if len(line) < LEAST or line.startswith((">>>", "..")) or line in seen:
                    continue
                seen.add(line)
                written += file.write(line + "\n")
                if written > most:
                    return path.stat().st_size
    return path.stat().st_size


if __name__ == "__main__":
    print(f"{write_text(Path(sys.argv[1])):,} bytes")
