"""Processes to kill, without their start: one process imports and compiles everything, and forks at each call; no thread lives in it."""

import contextlib
import importlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from helpers.config import ROOT

ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}  # on tiny tables they only wait for each other
OWN_MOUNTS = "NURSERY_HAS_OWN_MOUNTS"  # an environment variable: what is mounted in there is seen nowhere else
WARM = 300  # papers that the nursery trains on before it forks


class Child:
    """A forked process, which the nursery `owner` waits for."""

    def __init__(self, owner: subprocess.Popen, call: dict):
        self._owner = owner
        self.pid = self._ask(call)
        self._descriptor, self.returncode = os.pidfd_open(self.pid), None

    def _ask(self, what: dict) -> int:
        self._owner.stdin.write(json.dumps(what) + "\n")
        self._owner.stdin.flush()
        return int(self._owner.stdout.readline())

    def ended(self) -> bool:
        return self.returncode is not None or bool(select.select([self._descriptor], [], [], 0)[0])

    def wait(self) -> int:
        """Wait until it ends; its exit status, negative for a signal."""
        if self.returncode is None:
            select.select([self._descriptor], [], [])
            os.close(self._descriptor)
            self.returncode = os.waitstatus_to_exitcode(self._ask({"wait": self.pid}))
        return self.returncode

    def kill(self) -> int:
        """SIGKILL; what `wait` returns."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()


Start = Callable[..., Child]


@contextlib.contextmanager
def nursery() -> Iterator[Start]:
    """A function start(module of this package, its main's arguments, printed=file that gets its output) -> Child."""
    command, own_mounts = [sys.executable, "-m", "tests.faults.nursery"], ["unshare", "-rm"]  # so that a child can have a small disk
    has = bool(shutil.which("unshare")) and not subprocess.run([*own_mounts, "true"], capture_output=True, check=False).returncode
    environment = {**os.environ, **ONE_THREAD, OWN_MOUNTS: "yes" if has else ""}
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([*own_mounts, *command] if has else command, cwd=ROOT, env=environment, **pipes) as process:
        yield lambda module, *arguments, printed: Child(
            process, {"module": module, "arguments": list(map(str, arguments)), "printed": str(printed)}
        )
        process.stdin.close()


def _serve(answers) -> None:
    for line in sys.stdin:
        call = json.loads(line)
        answer = os.waitpid(call["wait"], 0)[1] if "wait" in call else os.fork()
        if answer == 0 and "wait" not in call:
            _live(call)
        print(answer, file=answers, flush=True)


def _live(call: dict) -> None:
    """What a child does; it never returns."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    printed = os.open(call["printed"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    status = 1
    try:
        importlib.import_module(f"tests.faults.{call['module']}").main(*call["arguments"])
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _warm_up() -> None:
    from tests.faults import full_disk, stages, trainee

    assert full_disk and stages
    tqdm.monitor_interval = 0  # no thread
    tqdm.set_lock(threading.RLock())  # its own is shared with the children: one that is killed while it holds it would stop all others
    with tempfile.TemporaryDirectory() as folder:
        trainee.write_graph(Path(folder), WARM)
        trainee.loop.train(trainee.settings(Path(folder), epochs=1), trainee.read_graph(Path(folder)))


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what training prints is no answer
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        _warm_up()
    _serve(answers)
    os._exit(0)
