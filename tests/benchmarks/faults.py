"""A session that dies: trainings and other stages killed, checkpoints damaged, disks filled; and what a checkpoint costs a training."""

import tempfile
from pathlib import Path

from tests.benchmarks import extend
from tests.faults import kills
from tests.faults.cost import ROWS, checkpoint_overhead
from tests.faults.damage import damage_newest
from tests.faults.full_disk import on_a_small_disk
from tests.faults.nursery import nursery
from tests.faults.stages import kill_stages
from tests.faults.trainee import read_graph, write_graph


def run(quick: bool = False) -> dict[str, float]:
    """The figures of issue 6; two_thread_mrr_difference is relative. `quick`: fewer of everything, and no model extended."""
    with tempfile.TemporaryDirectory(dir=".") as folder, nursery() as start:  # here, not in /tmp, which may be memory
        place = Path(folder).resolve()
        write_graph(place)
        figures = of_kills(start, place, quick) | of_a_full_disk(start, place, 3 if quick else 30)
        figures["checkpoint_overhead_fraction"] = checkpoint_overhead(place / "cost", ROWS // 50 if quick else ROWS)
        killed, differing = kill_stages(start, place / "stages", 1 if quick else 10)
        figures |= {"stages_killed": killed, "stages_differing": differing}
    return figures | ({} if quick else extend.run() or {})


def of_kills(start, place: Path, quick: bool) -> dict[str, float]:
    """One-thread runs compared bit by bit, two-thread runs by their held-out MRR; damages to the killed run's checkpoints."""
    unbroken = kills.run(start, place / "unbroken", place)
    killed = kills.run(start, place / "killed", place, kills=5 if quick else 50)
    print(f"one thread: {killed.kills} kills, {dict(killed.hits)}", flush=True)
    assert killed.log() == unbroken.log(), "log.csv has a gap, a double, or other losses"
    tried, loaded = damage_newest(killed.folder, place, flips=7 if quick else 37)
    of_two, pairs = kills.run(start, place / "two-unbroken", place, threads=2), read_graph(place)
    two = kills.run(start, place / "two-killed", place, kills=2 if quick else 20, threads=2, seed=1)
    print(f"two threads: {two.kills} kills, {dict(two.hits)}; {two.lost} blocks lost, {two.doubled} doubled", flush=True)
    scores = of_two.mrr(pairs), two.mrr(pairs)
    print(f"two threads: held-out MRR {scores[0]:.4f} unbroken, {scores[1]:.4f} killed, of {len(pairs.heldout):,} citations", flush=True)
    return {
        "kills": killed.kills,
        "tables_differing": kills.differing(unbroken, killed),
        "blocks_lost": killed.lost + two.lost,
        "blocks_doubled": killed.doubled + two.doubled,
        "damaged_checkpoints_tried": tried,
        "damaged_checkpoints_loaded": loaded,
        "two_thread_kills": two.kills,
        "two_thread_mrr_difference": abs(scores[1] / scores[0] - 1),
    }


def of_a_full_disk(start, place: Path, levels: int) -> dict[str, float]:
    """disk_full_levels and disk_full_losses; nothing where this system gives no small disk."""
    found = on_a_small_disk(start, place / "full", levels)
    if found is None:
        print("This system gives a process no small disk of its own (unshare, tmpfs): no figures of a full disk.")
        return {}
    return {f"disk_full_{name}": value for name, value in found.items()}
