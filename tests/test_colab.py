"""Run All in Colab, as far as it can be had without Colab: an empty folder, a stub of its package, a clone at the pinned tag."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import papermill
import pytest

from helpers import environment
from helpers.artefacts import read_manifest
from helpers.config import ROOT
from helpers.environment import REPOSITORY, TAG, checks, install_missing, requirements
from helpers.errors import ConfigError

STUB = Path(__file__).parent / "colab_stub"


def project_files() -> list[Path]:
    """What a clone would hold: helpers, notebooks, the sample, README and requirements."""
    found = [path for name in ("helpers", "notebooks", "data") for path in (ROOT / name).rglob("*") if path.is_file()]
    return [path for path in found if "__pycache__" not in path.parts] + [ROOT / "README.md", ROOT / "requirements.txt"]


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """A git repository of the project as it stands, with the pinned tag."""
    repository = tmp_path_factory.mktemp("published")
    for path in project_files():
        copy = repository / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    git = ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@t.invalid"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "published"], ["tag", TAG]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    return repository


def colab_environment(repository: Path | str, drive: Path) -> dict:
    """The environment of a kernel in Colab: the stub on PYTHONPATH, and the public address answered by `repository`."""
    return {
        **os.environ,
        "PYTHONPATH": str(STUB),
        "COLAB_DRIVE_MOUNT": str(drive),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{repository}.insteadOf",
        "GIT_CONFIG_VALUE_0": REPOSITORY,
        "GIT_TERMINAL_PROMPT": "0",
    }


def setup_cell() -> str:
    notebook = nbformat.read(ROOT / "notebooks" / "01_preprocess.ipynb", 4)
    return next(cell for cell in notebook.cells if cell.cell_type == "code").source


def run_setup(folder: Path, repository, **changes) -> subprocess.CompletedProcess:
    """The setup cell in a fresh interpreter whose working directory is `folder`."""
    env = {**colab_environment(repository, folder), **changes}
    return subprocess.run([sys.executable, "-c", setup_cell()], cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_the_setup_cell_clones_once(tmp_path, published):
    first, second = (run_setup(tmp_path, f"file://{published}") for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    root = tmp_path / "paper-embeddings"
    assert f"Cloning {REPOSITORY} at {TAG} into {root}" in first.stdout and "Cloning" not in second.stdout
    for done in (first, second):
        assert f"(commit {TAG}) in {root}" in done.stdout and "torch" in done.stdout and "Installing" not in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["paper-embeddings"]


def test_a_clone_that_was_cut_off_is_begun_again(tmp_path, published):
    (tmp_path / "paper-embeddings.new" / "half").mkdir(parents=True)
    assert run_setup(tmp_path, f"file://{published}").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["paper-embeddings"]


def test_inside_a_checkout_nothing_is_cloned(tmp_path, published):
    checkout = tmp_path / "checkout"
    shutil.copytree(published, checkout, ignore=shutil.ignore_patterns(".git"))
    done = run_setup(checkout / "notebooks", "file:///nowhere")
    assert done.returncode == 0 and f"in {checkout}" in done.stdout and "Cloning" not in done.stdout


@pytest.mark.parametrize("kind", ["missing tag", "no network", "read-only folder"])
def test_a_clone_that_fails_is_a_sentence(tmp_path, published, kind):
    repository, folder = f"file://{published}", tmp_path
    if kind == "missing tag":
        subprocess.run(["git", "clone", "-q", str(published), str(tmp_path / "untagged")], check=True, capture_output=True)
        subprocess.run(["git", "-C", str(tmp_path / "untagged"), "tag", "-d", TAG], check=True, capture_output=True)
        repository, folder = f"file://{tmp_path / 'untagged'}", tmp_path / "content"
        folder.mkdir()
    elif kind == "no network":
        repository = "https://127.0.0.1:1/none"
    else:
        folder = Path("/proc")  # a folder in which nobody can make another
    done = run_setup(folder, repository)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1 and len(lines) == 1 and f"{REPOSITORY} at {TAG} was not cloned into {folder}/paper-embeddings (" in lines[0]
    assert lines[0].endswith("; check network and folder.") and not (folder / "paper-embeddings").exists()


def test_run_all_of_the_whole_collection(tmp_path, published, monkeypatch):
    """Every notebook of the run, from nothing but its file, in an empty folder, to verified copies on Drive."""
    content, drive = tmp_path / "content", tmp_path / "drive"
    content.mkdir()
    for name, value in colab_environment(f"file://{published}", drive).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for notebook in sorted((ROOT / "notebooks").glob("0[1-6]*.ipynb")):
        parameters = {"DRIVE_FOLDER": "papers", "FORMS": ["int8", "npy_float16"]} if notebook.name.startswith("06") else {}
        papermill.execute_notebook(str(notebook), str(tmp_path / notebook.name), parameters, cwd=str(content), progress_bar=False)
    assert [path.name for path in content.iterdir()] == ["paper-embeddings"]
    kept = drive / "MyDrive" / "papers"
    assert sorted(path.name for path in kept.iterdir()) == ["sample-int8", "sample-npy_float16"]
    assert all(read_manifest(path, "", verify=True)["shape"] == [12_076, 64] for path in kept.iterdir())
    assert (drive / "flushed").exists()

    papermill.execute_notebook(  # and what is on Drive opens again, without training
        str(ROOT / "notebooks" / "04_evaluate_neighbors.ipynb"), str(tmp_path / "opened.ipynb"),
        {"EMBEDDINGS": str(kept / "sample-int8"), "OUT": str(tmp_path / "opened"), "QUERY": "query optimization"},
        cwd=str(content), progress_bar=False,
    )  # fmt: skip
    opened = (tmp_path / "opened.ipynb").read_text()
    assert "held-out MRR" in opened and "query optimization" in opened and not (tmp_path / "opened" / "embeddings").exists()


def test_a_users_error_in_a_notebook_is_one_sentence(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        papermill.execute_notebook(
            str(ROOT / "notebooks" / "04_evaluate_neighbors.ipynb"), str(tmp_path / "out.ipynb"), {"OUT": str(tmp_path / "none")},
            cwd=str(ROOT / "notebooks"), progress_bar=False,
        )  # fmt: skip
    assert caught.value.ename == "ArtefactError" and "run notebook 01_preprocess first" in caught.value.evalue
    shown = [
        output for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells for output in cell.get("outputs", []) if "traceback" in output
    ]
    assert len(shown) == 1 and len(shown[0].traceback) == 1, "the sentence alone, no traceback"


def test_nothing_is_missing_here(capsys):
    assert install_missing() == [] and capsys.readouterr().out == ""


def wheel(folder: Path, name: str) -> None:
    """The smallest wheel there is."""
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", "answer = 42\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


def test_only_what_is_missing_is_installed(tmp_path, monkeypatch, capsys):
    wheel(tmp_path, "missing_paper_helper")
    (tmp_path / "requirements.txt").write_text("numpy>=1.26  # arrays\nmissing_paper_helper>=1.0  # a test\njupyter>=1.0  # opening\n")
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(tmp_path)), ("PIP_TARGET", str(tmp_path / "site"))):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    assert install_missing(tmp_path / "requirements.txt") == ["missing_paper_helper>=1.0"]
    assert capsys.readouterr().out == "Installing missing_paper_helper: a test\n"
    assert (tmp_path / "site" / "missing_paper_helper.py").exists() and not (tmp_path / "site" / "numpy").exists()


def test_what_cannot_be_installed_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "requirements.txt").write_text("no_such_paper_helper>=1.0  # a test\n")
    with pytest.raises(ConfigError, match=r"no_such_paper_helper>=1.0 could not be installed \(.*\); check the network") as caught:
        install_missing(tmp_path / "requirements.txt")
    assert "\n" not in str(caught.value)


def test_torch_is_never_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "installed", lambda name: None)
    (tmp_path / "requirements.txt").write_text("torch>=2.4  # training\n")
    with pytest.raises(ConfigError, match=r"torch is missing \(training\): choose a Colab runtime"):
        install_missing(tmp_path / "requirements.txt")


def test_the_environment_table(tmp_path, monkeypatch):
    assert {name for name, _, _ in checks(tmp_path)} >= {"Python", "torch", "numba", "RAM", "GPU", "disk"}
    versions = {"numpy": "1.9.1", "pandas": None, "jupyter": None, "torch": "2.10.0"}  # older than 1.26, newer than 2.4
    monkeypatch.setattr(environment, "installed", lambda name: versions.get(name, "99.0"))
    monkeypatch.setattr(environment, "available_ram", lambda: 10**9)
    rows = {name: verdict for name, _, verdict in checks(tmp_path)}
    assert rows["numpy"].startswith("older than 1.26: pip install -U 'numpy>=1.26'")
    assert rows["pandas"].startswith("pip install 'pandas>=2.0'") and rows["jupyter"] == "not needed on Colab"
    assert rows["RAM"].startswith("close other notebooks") and rows["torch"] == "OK"


def test_the_environment_command():
    done = subprocess.run([sys.executable, "-m", "helpers", "environment"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and all(line.split()[-1] == "OK" for line in done.stdout.splitlines()), done.stdout


def test_requirements_have_lower_bounds_and_a_word_on_who_needs_them():
    assert {"torch", "numpy", "pandas", "matplotlib", "pyarrow", "jupyter", "gdown"} <= {name for name, _, _ in requirements()}
    assert all(bound.replace(".", "").isdigit() and why for _, bound, why in requirements())


def test_one_command_rewrites_the_public_address(tmp_path):
    copy = tmp_path / "project"
    for path in project_files():
        (copy / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy / path.relative_to(ROOT))
    (copy / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "publish.py", copy / "tests")
    address = "https://github.com/somebody/vectors"
    command = [sys.executable, "-m", "tests.publish", address, "v9.9"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    notebooks = sorted((copy / "notebooks").glob("*.ipynb"))
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(notebooks) + 2, done.stderr
    for notebook in notebooks:
        cells = nbformat.read(notebook, 4).cells
        assert f"https://colab.research.google.com/github/somebody/vectors/blob/v9.9/notebooks/{notebook.name})" in cells[0].source
        assert f'REPOSITORY, TAG = "{address}", "v9.9"' in cells[2].source
    everything = [path.read_text() for path in (*notebooks, copy / "README.md", copy / "helpers" / "environment.py")]
    assert not any("OWNER/paper-embeddings" in text or '"v0.1.0"' in text for text in everything)
    json.loads(notebooks[0].read_text())
    refused = subprocess.run([*command[:3], "ftp://x"], cwd=copy, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "is not of the form https://github.com/OWNER/NAME" in refused.stderr
