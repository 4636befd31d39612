"""Files that are whole or not there, and settings that are checked."""

import dataclasses

import pytest

from helpers.artefacts import map_array, new_file, new_folder, read_json, read_manifest, write_manifest
from helpers.config import CORPUS_SETTINGS, PAIRS_SETTINGS, PRESETS, TRAINING_SETTINGS, Config
from helpers.errors import ArtefactError, ConfigError


def test_a_new_folder_replaces_the_old_one_whole(tmp_path):
    for content in ("old", "new"):
        with new_folder(tmp_path / "a" / "result") as folder:
            (folder / content).write_text(content)
            assert not (tmp_path / "a" / "result" / "new").exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["result"]
    assert [path.name for path in (tmp_path / "a" / "result").iterdir()] == ["new"]


@pytest.mark.parametrize("make", [new_folder, new_file])
def test_what_fails_leaves_the_old_one_and_no_rest(tmp_path, make):
    path = tmp_path / "result"
    with make(path) as temporary:
        (temporary / "x" if make is new_folder else temporary).write_text("good")
    with pytest.raises(ZeroDivisionError), make(path) as temporary:
        (temporary / "x" if make is new_folder else temporary).write_text("half")
        1 / 0  # noqa: B018
    assert [entry.name for entry in tmp_path.iterdir()] == ["result"]
    assert (path / "x" if make is new_folder else path).read_text() == "good"


@pytest.mark.parametrize("make", [new_folder, new_file])
def test_a_full_disk_is_a_sentence(tmp_path, make):
    with pytest.raises(ArtefactError, match=r"result was not written: the disk is full; free space or choose another --out"):
        with make(tmp_path / "result") as temporary:
            (temporary / "x" if make is new_folder else temporary).write_text("something")
            with open("/dev/full", "w") as full:  # the kernel's own "no space left on device"
                full.write("more")
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ArtefactError, match=r"was not written: (Not a directory|File exists); choose another --out"),
        new_folder(tmp_path / "file" / "result"),
    ):
        pass


def test_a_manifest_notices_what_changed(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"1234")
    write_manifest(tmp_path, colour="red")
    assert read_manifest(tmp_path, "notebook 9", verify=True)["colour"] == "red"
    (tmp_path / "x.npy").write_bytes(b"1235")
    read_manifest(tmp_path, "notebook 9")  # the size is right
    with pytest.raises(ArtefactError, match=r"x.npy is missing or not as its manifest says; run notebook 9 again"):
        read_manifest(tmp_path, "notebook 9", verify=True)


def test_missing_and_damaged_artefacts_are_named(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "bad.npy").write_text("nothing")
    for read in (read_json, map_array):
        with pytest.raises(ArtefactError, match="does not exist yet; run notebook 9 first"):
            read(tmp_path / "none", "notebook 9")
        with pytest.raises(ArtefactError, match="is damaged; run notebook 9 again"):
            read(tmp_path / f"bad.{'json' if read is read_json else 'npy'}", "notebook 9")


def test_presets_and_changes():
    assert {name: PRESETS[name]["dimensions"] for name in PRESETS} == {"sample": 64, "cs": 512, "medline": 188, "words": 100}
    config = Config.of_preset("sample", dimensions=None, subset="", heldout=0)
    assert config.dimensions == 64 and config.heldout == 0 and config.subset == "all" and len(config.dumps) == 2
    assert [Config.of_preset("medline", optimizer=name).learning_rate for name in ("sgd", "adam")] == [0.02, 0.003]
    assert Config.of_preset("cs", optimizer="adam", learning_rate=0.5).learning_rate == 0.5
    assert Config.of_preset("cs", heldout_after=2000).heldout == 0.2
    assert Config.of_preset("cs", heldout_after=2000, heldout=0.1).heldout == 0.1
    how = {
        "device",
        "engine",
        "gpu_memory",
        "threads",
        "tables_on_disk",
        "contexts_on_disk",
        "checkpoint_minutes",
        "checkpoints_on_drive",
        "reach",
    }  # change how, not what is trained
    named = {*CORPUS_SETTINGS, *PAIRS_SETTINGS, *TRAINING_SETTINGS, *how, "preset", "out"}
    assert named == {field.name for field in dataclasses.fields(Config)}, "every setting belongs to a stage"


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"dimensions": 0}, "dimensions = 0 cannot work: it must be a whole number from 1"),
        ({"dimensions": 2.5}, "dimensions = 2.5 cannot work"),
        ({"dimensions": True}, "dimensions = True cannot work"),
        ({"epochs": -1}, "epochs = -1 cannot work"),
        ({"heldout": 1.0}, "heldout = 1.0 cannot work: it must be a number from 0 to 0.9"),
        ({"heldout": float("nan")}, "heldout = nan cannot work"),
        ({"learning_rate": 0}, "learning_rate = 0 cannot work"),
        ({"subset": "physics"}, "subset = 'physics' cannot work: it must be one of cs, medline, all"),
        ({"first_year": "1990"}, "first_year = '1990' cannot work: it must be a year"),
        ({"colour": "red"}, "Setting 'colour' does not exist"),
    ],
)
def test_settings_that_cannot_work(changes, sentence):
    with pytest.raises(ConfigError) as caught:
        Config.of_preset("sample", **changes)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_preset():
    with pytest.raises(ConfigError, match="Preset 'physics' does not exist; choose one of sample, cs, medline, words"):
        Config.of_preset("physics")
