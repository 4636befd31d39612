"""`python -m helpers run` as a user types it: one sentence and exit code 2 for bad input, and nothing half-written."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from helpers.config import ROOT


def helpers(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "helpers", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)


def refused(done: subprocess.CompletedProcess, sentence: str) -> bool:
    """Exit code 2, one line on standard error that holds the sentence, no traceback."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stderr + done.stdout, done
    return sentence in lines[0]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--preset", "physics"], "Preset 'physics' does not exist; choose one of sample, cs, medline, words."),
        (["--preset", "cs"], "This preset needs a dump: give the path of its file or folder with --dump PATH"),
        (["--preset", "cs", "--dump", "/no/such/file"], "/no/such/file does not exist"),
        (["--preset", "sample", "--dimensions", "0"], "dimensions = 0 cannot work"),
        (["--preset", "sample", "--dimensions", "many"], "invalid int value: 'many'"),
        (["--preset", "sample", "--heldout", "1.5"], "heldout = 1.5 cannot work"),
        (["--preset", "sample", "--reach", "-1"], "reach = -1 cannot work: it must be a whole number of smoothing steps"),
        (["--preset", "sample", "--colour", "red"], "Unrecognized arguments: --colour red"),
        ([], "The following arguments are required: --preset"),
    ],
)
def test_bad_arguments(tmp_path, arguments, sentence):
    assert refused(helpers("run", *arguments, "--out", tmp_path / "out"), sentence)
    assert not (tmp_path / "out").exists()


def test_no_command():
    assert refused(helpers(), "The following arguments are required: command")


def test_out_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert refused(
        helpers("run", "--preset", "sample", "--out", tmp_path / "file" / "out"),
        "01_preprocess.ipynb was not written: Not a directory",
    )
    assert refused(helpers("run", "--preset", "sample", "--out", "/proc/out"), "/proc/out/01_preprocess.ipynb was not written")


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"", "is empty (0 bytes)"),
        (b"from,to\n1,2\n", "expected the columns citing,cited"),
        (b'{"id": "a", "outCitations": [], "inCitations": []}\n', "1 papers but not one citation"),
    ],
)
def test_a_dump_that_the_notebook_refuses(tmp_path, content, sentence):
    (tmp_path / "dump").write_bytes(content)
    assert refused(helpers("run", "--preset", "cs", "--dump", tmp_path / "dump", "--out", tmp_path / "out"), sentence)
    assert {path.name for path in (tmp_path / "out").glob("*")} <= {"shards"}, "nothing but what was read whole"


@pytest.mark.parametrize("how", ["Ctrl-C", "kernel killed"])
def test_a_run_that_is_stopped_says_so_and_goes_on(tmp_path, community_edges, how):
    """The smallest real use, stopped in the middle: an edge list and titles, every citation trained on, vectors for every paper."""
    edges, papers, out = tmp_path / "edges.csv", tmp_path / "papers.csv", tmp_path / "out"
    edges.write_text("citing,cited\n" + "".join(f"{a},{b}\n" for a, b in community_edges))
    papers.write_text("id,title,year\n" + "".join(f"p{i},Paper {i} of topic {i % 10},2000\n" for i in range(300)))
    arguments = ["--preset", "cs", "--subset", "all", "--dump", edges, "--dump", papers, "--dimensions", 16, "--heldout", 0, "--out", out]
    process = subprocess.Popen(
        [sys.executable, "-m", "helpers", "run", *map(str, arguments), "--epochs", "100000", "--checkpoint-minutes", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell's children ignore it otherwise
    )
    deadline = time.monotonic() + 600
    while len(list(out.glob("checkpoints/[0-9]*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    else:
        (kernel,) = psutil.Process(process.pid).children()
        kernel.kill()
    _, errors = process.communicate(timeout=600)
    sentence = "Stopped. Run the same command again" if how == "Ctrl-C" else "The process that ran 03_train_embeddings was killed"
    assert process.returncode == (130 if how == "Ctrl-C" else 2) and len(errors.strip().splitlines()) == 1 and sentence in errors, errors
    if how == "Ctrl-C":
        return
    manifest = json.loads(sorted(out.glob("checkpoints/[0-9]*"))[-1].joinpath("manifest.json").read_text())
    made = {path: path.stat().st_mtime_ns for name in ("corpus", "pairs") for path in (out / name).iterdir()}
    again = helpers("run", *arguments, "--epochs", manifest["epoch"] + 1)
    assert again.returncode == 0 and not again.stderr and f"{manifest['epoch'] + 1} epochs" in again.stdout, again
    assert made == {path: path.stat().st_mtime_ns for path in made}, "what was finished is not made again"
    for notebook, sentence in (
        ("01_preprocess", "stays as it is"),
        ("02_build_pairs", "stays as it is"),
        ("03_train_embeddings", "Going on: "),
    ):
        assert sentence in (out / f"{notebook}.ipynb").read_text()
    lines = again.stdout.splitlines()
    assert any(f"300 papers, {len(community_edges):,} citations" in line for line in lines)
    assert any("nothing was held out; vectors in embeddings/" in line for line in lines)
    assert "Nothing was held out" in (out / "04_evaluate_neighbors.ipynb").read_text()
    assert json.loads((out / "metrics.json").read_text()) == {}
    assert np.load(out / "embeddings" / "target.npy").shape == (300, 16)

    finished = {path: path.stat().st_mtime_ns for path in (out / "checkpoints").rglob("*")}
    refusal = helpers("run", *arguments, "--dimensions", 8)
    assert refused(refusal, "checkpoints belongs to another run (dimensions 16 there, 8 here)")
    another = helpers("run", "--preset", "cs", "--subset", "all", "--dump", edges, "--heldout", 0.1, "--out", out)
    dumps = f"dumps {[str(edges), str(papers)]} there, {[str(edges)]} here"
    assert refused(another, f"holds a run trained otherwise ({dumps})")
    assert {path: path.stat().st_mtime_ns for path in (out / "checkpoints").rglob("*")} == finished
