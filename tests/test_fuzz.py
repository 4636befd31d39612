"""A few hundred damaged dumps a reader; `python -m tests.fuzz` reads many more."""

from helpers.corpus import dumps
from tests import fuzz

INPUTS = 200


def test_nothing_escapes_whatever_is_read():
    outcomes, escaped = fuzz.run(list(fuzz.SEEDS), INPUTS, seed=7)
    assert not escaped, escaped[0]
    for classes in outcomes.values():
        assert classes.total() == INPUTS and classes["read"] > 10 and len(classes) > 5, classes


def test_seeds_as_they_are_can_be_read(tmp_path):
    for reader, make in fuzz.SEEDS.items():
        for i, dump in enumerate(make()):
            for name, data in dump.items():
                (tmp_path / f"{reader}-{i}").mkdir(exist_ok=True)
                (tmp_path / f"{reader}-{i}" / name).write_bytes(data)
            for file in dumps.files_of((str(tmp_path / f"{reader}-{i}"),)):
                assert sum(len(batch) for batch in dumps.read(file, dumps.Report())), file


def test_what_escapes_is_caught_whatever_it_is(monkeypatch, tmp_path):
    """A child that cannot read an input in time, or dies of it, is replaced; the input that it died of is named."""
    program = tmp_path / "fuzz_child.py"
    program.write_text(
        "import os, sys, time\n"
        "for line in sys.stdin:\n"
        "    reader, seed, first, last = __import__('json').loads(line)\n"
        "    for i in range(first, last):\n"
        "        time.sleep(60 * (i == 3))\n"
        "        i == 5 and os.kill(os.getpid(), 11)\n"
        '        print(\'["ESCAPED ValueError", ""]\' if i == 1 else \'["read", ""]\', flush=True)\n'
    )
    monkeypatch.setattr(fuzz, "CHILD", [str(program)])
    monkeypatch.setattr(fuzz, "LIMIT", 2)
    outcomes, escaped = fuzz.run(["zip"], 8)
    assert outcomes["zip"] == {"read": 5, "ESCAPED ValueError": 1, "ESCAPED hang": 1, "ESCAPED crash (-11)": 1}
    assert [(i, what.split(" ")[-1]) for _, i, what in sorted(escaped)] == [(1, ""), (3, "hang"), (5, "(-11)")]
