"""The preflight: what a step needs against what there is, and a refusal that says what would fit."""

import dataclasses
from pathlib import Path

import pytest

from helpers import memory
from helpers.corpus.dumps import files_of
from helpers.errors import ConfigError
from helpers.memory import (
    Training,
    available_ram,
    largest_dimensions,
    looking_needs,
    pair_needs,
    plan_table,
    preflight,
    reading_needs,
    training_needs,
)


def test_available_ram_is_what_the_system_says():
    meminfo = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in Path("/proc/meminfo").read_text().splitlines()}
    assert 0 < available_ram() <= meminfo["MemTotal"]


@pytest.mark.parametrize("version", [1, 2])
def test_a_control_group_caps_it(tmp_path, monkeypatch, version):
    """This process is in /a/b; the limit stands at /a, and what is used there counts, but for files in memory, which give way."""
    root = tmp_path if version == 2 else tmp_path / "memory"
    (root / "a" / "b").mkdir(parents=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    prefix = "" if version == 2 else "total_"

    def write(folder, limit, usage):
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text(f"{usage}\n")
        (folder / "memory.stat").write_text(f"{prefix}inactive_file 300000000\n{prefix}active_file 200000000\nmapped_file 7\n")

    write(root / "a", 3_000_000_000, 2_000_000_000)
    write(root / "a" / "b", "max" if version == 2 else 9223372036854771712, 1_000_000_000)
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n" if version == 2 else "5:cpu,cpuacct:/x\n4:memory:/a/b\n0::/\n")
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_GROUPS", own)
    assert available_ram() == 1_500_000_000
    own.write_text("0::/elsewhere\n" if version == 2 else "4:memory:/docker/1234\n")  # a path of outside the container
    assert available_ram() > 3_000_000_000
    write(root, 2_500_000_000, 2_000_000_000)
    assert available_ram() == 1_000_000_000


def test_the_rows(tmp_path):
    rows = preflight(tmp_path / "not" / "yet", ram=10**8, disk=10**6, seconds=240, advice="free some")
    assert [what for what, _, _ in rows] == ["RAM", "GPU", "disk", "Drive", "time"]
    assert rows[-1][1] == "about 4 minutes" and all(len(row) == 3 for row in rows)


MEDLINE, CS = Training(14_886_544, 300_000_000, 188), Training(2_150_127, 40_000_000, 512, value_bytes=4)
COLAB = int(12.7 * 2**30)


def test_medline_and_cs_fit_into_a_free_colab_and_where_their_tables_go():
    for plan in (MEDLINE, CS):
        assert plan.placed(COLAB).on_disk is False and plan.needs("RAM") > plan.N * plan.D * plan.value_bytes * 2
    large = dataclasses.replace(MEDLINE, D=300)
    assert large.placed(COLAB).on_disk is True, "targets go to the disk"
    assert large.placed(25 * 2**30).on_disk is False
    where = {(item.what.split(",")[0], item.where): item.rows for item in large.placed(COLAB).items()}
    assert where["target rows", "disk"] == where["context rows", "RAM"] == 14_886_544


@pytest.mark.parametrize(
    ("plan", "ram", "advice"),
    [
        (
            dataclasses.replace(MEDLINE, on_disk=False),
            10e9,
            "tables_on_disk = None or dimensions = 148 would fit.",
        ),
        (dataclasses.replace(MEDLINE, D=512), 12.7e9, "dimensions = 388 would fit."),
        (
            dataclasses.replace(CS, D=2048),
            12.7e9,
            "row_type = 'bfloat16' or dimensions = 1412 would fit.",
        ),
        (Training(2_000_000_000, 10**9, 8), 12.7e9, "keep fewer papers (FILTERS in notebook 01) would fit."),
    ],
)
def test_what_fits_nowhere_is_refused_with_what_would(plan, ram, advice):
    with pytest.raises(ConfigError) as caught:
        plan.placed(ram)
    told = str(caught.value)
    assert told.startswith(f"{plan.N:,} papers x {plan.D} need ") and told.endswith(f"GB are available; {advice}")
    if "dimensions" in advice:
        D = int(advice.split("dimensions = ")[1].split()[0])
        assert dataclasses.replace(plan, D=D).placed(ram)
        with pytest.raises(ConfigError):
            dataclasses.replace(plan, D=D + 4).placed(ram)


def test_the_largest_number_of_dimensions():
    colab, t4 = largest_dimensions(14_886_544, COLAB), largest_dimensions(14_886_544, COLAB, gpu=14 * 10**9)
    assert colab["one memory"] == colab["GPU and RAM"] and colab["and targets on the disk"] > 1.9 * colab["one memory"]
    assert t4["GPU and RAM"] > 1.9 * colab["one memory"] and t4["one memory"] >= colab["one memory"]
    assert dataclasses.replace(MEDLINE, D=colab["and targets on the disk"], on_disk=True).placed(COLAB)
    assert dataclasses.replace(MEDLINE, D=colab["one memory"], on_disk=False).placed(COLAB)
    for D in (colab["one memory"] + 8, colab["and targets on the disk"] + 8):
        with pytest.raises(ConfigError):
            dataclasses.replace(MEDLINE, D=D, on_disk=D > 300).placed(COLAB)


def test_the_plan_in_words():
    lines = plan_table(MEDLINE.placed(COLAB), 2e6)
    told = {what.split(",")[0]: (where, rows, size, seconds) for what, where, rows, size, seconds in lines}
    assert told["target rows"] == ("RAM", "14,886,544", "5.6 GB", "")
    assert told["training"] == ("", "", "", "about 2 minutes")  # 300 M / 2 M a second = 150 s, half to even
    needs = training_needs(MEDLINE, 2e6)
    assert needs["ram"] == MEDLINE.needs("RAM") and 150 < needs["seconds"] < 400


def test_a_disk_that_is_too_small(tmp_path):
    with pytest.raises(ConfigError, match=r"This step needs 100000000.0 GB of disk, but .* GB are available; free some\."):
        preflight(tmp_path, ram=1, disk=10**17, seconds=1, advice="free some")


def test_every_stage_needs_more_for_more(tmp_path):
    small, large = tmp_path / "a.gz", tmp_path / "b.gz"
    small.write_bytes(bytes(1000))
    large.write_bytes(bytes(100_000))
    for less, more in (
        (reading_needs(files_of((str(small),))), reading_needs(files_of((str(large), str(small))))),
        (pair_needs(10, 100), pair_needs(10, 1000)),
        (looking_needs(1000, 8), looking_needs(2000, 8)),
    ):
        assert all(less[name] < more[name] for name in ("ram", "disk", "seconds"))


def test_what_is_remote_needs_nothing_that_is_known_yet():
    needs = reading_needs(files_of(("s2:papers", "https://example.org/dump.jsonl.gz")))
    assert needs["disk"] == 0 and needs["seconds"] == 5 and needs["ram"] == memory.WORK_BYTES


def test_checkpoints_that_are_there_already_need_no_more_room():
    plan, each = Training(1000, 10_000, 64), memory.checkpoint_bytes(1000, 64)
    assert [training_needs(plan, there=there)["disk"] for there in (0, 2 * each, 5 * each)] == [3 * each, each, each]
