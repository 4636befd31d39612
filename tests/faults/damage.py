"""The newest checkpoint damaged in many ways: is it ever taken for a whole one?"""

import contextlib
import io
import shutil
from pathlib import Path

import numpy as np

from helpers.errors import ArtefactError
from helpers.training.checkpoint import newest_checkpoint
from helpers.training.loop import train
from tests.faults.trainee import read_graph, settings
from tests.test_training import DAMAGES, damage


def damage_newest(run: Path, graph: Path, ways: tuple[str, ...] = DAMAGES, flips: int = 0, seed: int = 0) -> tuple[int, int]:
    """(tried, loaded) of damages to a copy of run's newest checkpoint: ways of DAMAGES, and a random byte flipped so often.

    loaded counts every time that not the checkpoint before was loaded instead, or the reason was not told. run: a folder of
    tests.faults.kills.run; graph: that of its graph.npz.
    """
    pairs, place = read_graph(graph), run.parent / f"{run.name}-damaged"
    with contextlib.redirect_stdout(io.StringIO()):
        other = train(settings(place / "other", epochs=1, learning_rate=0.02), pairs).path
    older, newest = (path.name for path in sorted((run / "run" / "checkpoints").glob("[0-9]*")))
    files, generator = sorted(path.name for path in (run / "run" / "checkpoints" / newest).iterdir()), np.random.default_rng(seed)
    ways, loaded = [*ways, *(f"a byte of {files[i % len(files)]}" for i in range(flips))], 0
    for way in ways:
        checkpoints = place / "run" / "checkpoints"
        shutil.rmtree(checkpoints, ignore_errors=True)
        shutil.copytree(run / "run" / "checkpoints", checkpoints)
        if way in DAMAGES:
            damage(checkpoints / newest, way, other)
        else:
            file = checkpoints / newest / way.removeprefix("a byte of ")
            content = bytearray(file.read_bytes())
            content[generator.integers(len(content))] ^= 1 << generator.integers(7)  # an 8th bit is no character of the manifest's
            file.write_bytes(content)
        whole = {path.name: path.read_bytes() for path in (run / "run" / "checkpoints" / newest).iterdir()}
        assert whole != {path.name: path.read_bytes() for path in (checkpoints / newest).iterdir()}, f"{way} damages nothing"
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            try:
                found = newest_checkpoint(settings(place), pairs.fingerprint)
            except ArtefactError as error:
                found = print(error)
        if found is None or found.path.name != older or f"Checkpoint {newest} is passed over: " not in printed.getvalue():
            print(f"{way}: {found.path if found else printed.getvalue()}")
            loaded += 1
    shutil.rmtree(place)
    return len(ways), loaded
