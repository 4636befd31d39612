"""The preflight: what a step needs against what there is, and a refusal that says what would fit."""

from pathlib import Path

import pytest

from helpers import memory
from helpers.corpus.dumps import DumpFile
from helpers.errors import ConfigError
from helpers.memory import available_ram, looking_needs, pair_needs, preflight, reading_needs, training_needs


def test_available_ram_is_what_the_system_says():
    meminfo = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in Path("/proc/meminfo").read_text().splitlines()}
    assert 0 < available_ram() <= meminfo["MemTotal"]


def test_a_control_group_caps_it(tmp_path, monkeypatch):
    (tmp_path / "limit").write_text("3000000000\n")
    (tmp_path / "usage").write_text("2000000000\n")
    monkeypatch.setattr(memory, "LIMIT_FILES", ((tmp_path / "limit", tmp_path / "usage"),))
    assert available_ram() == 1_000_000_000
    (tmp_path / "limit").write_text("max\n")
    assert available_ram() > 1_000_000_000


def test_the_rows(tmp_path):
    rows = preflight(tmp_path / "not" / "yet", **training_needs(12_000, 64, seconds=240))
    assert [what for what, _, _ in rows] == ["RAM", "GPU", "disk", "Drive", "time"]
    assert rows[-1][1] == "about 4 minutes" and all(len(row) == 3 for row in rows)


def test_a_table_that_does_not_fit_is_refused_with_what_would(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available_ram", lambda: 12_700_000_000)
    with pytest.raises(ConfigError) as caught:
        preflight(tmp_path, **training_needs(14_886_544, 188))
    assert str(caught.value) == (
        "This step needs 15.1 GB of RAM, but 12.7 GB are available; DIMENSIONS = 148 fits; so does SETTINGS = {'tables_on_disk': True}, "
        "which is slower."
    )
    assert training_needs(14_886_544, 148)["ram"] <= 12_700_000_000 < training_needs(14_886_544, 152)["ram"]
    assert training_needs(2_150_127, 512)["ram"] < 7e9 < 10e9 < training_needs(2_150_127, 512, value_bytes=4)["ram"] < 12_700_000_000
    assert training_needs(14_886_544, 188, on_disk=True)["ram"] < 5e9
    with pytest.raises(ConfigError, match="no number of dimensions fits: keep fewer papers"):
        preflight(tmp_path, **training_needs(2_000_000_000, 8))


def test_a_disk_that_is_too_small(tmp_path):
    with pytest.raises(ConfigError, match=r"This step needs 100000000.0 GB of disk, but .* GB are available; free some\."):
        preflight(tmp_path, ram=1, disk=10**17, seconds=1, advice="free some")


def test_every_stage_needs_more_for_more(tmp_path):
    small, large = tmp_path / "a.gz", tmp_path / "b.gz"
    small.write_bytes(bytes(1000))
    large.write_bytes(bytes(100_000))
    for less, more in (
        (reading_needs([DumpFile(small)]), reading_needs([DumpFile(large), DumpFile(small)])),
        (pair_needs(10, 100), pair_needs(10, 1000)),
        (looking_needs(1000, 8), looking_needs(2000, 8)),
    ):
        assert all(less[name] < more[name] for name in ("ram", "disk", "seconds"))


def test_checkpoints_that_are_there_already_need_no_more_room():
    new, resumed = (memory.training_needs(1000, 64, there=there)["disk"] for there in (0, 2 * memory.checkpoint_bytes(1000, 64)))
    assert new == 3 * memory.checkpoint_bytes(1000, 64) and resumed == memory.checkpoint_bytes(1000, 64)
