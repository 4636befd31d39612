"""The house rules that a machine can check."""

import ast
import subprocess
import sys

from helpers.config import ROOT

STAGES = ("corpus", "pairs", "rows", "models", "training", "neighbors", "export")  # data flows from left to right
SHARED = ("config", "errors", "artefacts", "memory", "prefetch", "progress", "environment", "figures")


def modules() -> list:
    return sorted((ROOT / "helpers").rglob("*.py"))


def test_ruff_finds_nothing():
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_helpers_stay_small():
    lines = [line.strip() for path in modules() for line in path.read_text().splitlines()]
    assert sum(bool(line) and not line.startswith("#") for line in lines) < 5000


def test_a_stage_imports_only_stages_to_its_left():
    for path in modules():
        stage = path.relative_to(ROOT / "helpers").parts[0].removesuffix(".py")
        if stage in ("__init__", "__main__"):
            continue
        allowed = {*SHARED, stage, *STAGES[: STAGES.index(stage) if stage in STAGES else 0]}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("helpers."):
                assert node.module.split(".")[1] in allowed, f"{path} imports {node.module}"


def test_no_machine_is_named():
    """No absolute path of a developer's machine, and no package registry, in anything that is committed."""
    for path in [*modules(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb"), ROOT / "README.md"]:
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in ("/" + "work/", "/" + "root/", "pypi" + ".org")), path
