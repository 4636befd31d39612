"""The command line: `python -m helpers run` executes the notebooks in order, `python -m helpers run --help` lists the settings."""

import argparse
import inspect
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args, get_type_hints

from helpers.artefacts import new_file
from helpers.config import CORPUS_SETTINGS, ROOT, Config
from helpers.corpus.dumps import files_of
from helpers.environment import checks
from helpers.errors import ConfigError, TrainingError, UserError

ABOUT_VALUES = "Execute the notebooks in order. In brackets stands what holds where neither you nor the preset say otherwise."


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise ConfigError(f"{message[0].upper()}{message[1:]}; see `{self.prog} --help`.")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command line."""
    top = _Parser(prog="python -m helpers", description="Embeddings of every paper in a citation dump.")
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("environment", help="check this machine: versions, RAM, GPU, disk")
    run = commands.add_parser("run", help="execute the notebooks in order", description=ABOUT_VALUES, allow_abbrev=False)
    # a setting that is not given is None: the preset's value stays; what is said of each is the comment behind its field
    told = dict(re.findall(r"^    (\w+): [^#\n]*# (.*)$", inspect.getsource(Config), re.MULTILINE))
    run.add_argument("--dump", dest="dumps", nargs="+", action="extend", default=[], metavar="PATH", help=told["dumps"])
    run.add_argument("--drop-unrecorded", dest="keep_unrecorded", action="store_false", default=None, help="drop works without a record")
    run.add_argument("--drive-folder", default="", metavar="DIR", help="keep checkpoints and exports there, too (on Colab: below My Drive)")
    for name, kind in get_type_hints(Config).items():
        if name not in ("dumps", "keep_unrecorded", "warm_start"):
            kind = next(iter(get_args(kind)), kind)  # int of `int | None`
            how = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind, "metavar": kind.__name__.upper()}
            how["help"] = f"{told.get(name, '')} [{vars(Config).get(name, '')}]"
            run.add_argument(f"--{name.replace('_', '-')}", required=name == "preset", default=None, **how)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 when all went well, 2 with one sentence on standard error for bad input; SystemExit for a fault of ours."""
    try:
        given = parser().parse_args(arguments)
        if given.command == "environment":
            rows = checks(Path.cwd())
            print(*(f"{what:<12}{found:<20}  {verdict}" for what, found, verdict in rows), sep="\n")
            return 0 if {verdict for _, _, verdict in rows} <= {"OK", "not needed on Colab"} else 2
        settings = {name: value for name, value in vars(given).items() if value is not None and name != "command"}
        config = Config.of_preset(**{name: value for name, value in settings.items() if name != "drive_folder"})
        files_of(config.dumps)  # a path that is not there is told at once
        # what names a place, in full: a notebook runs elsewhere
        _run(config, settings | {"dumps": list(config.dumps), "extends": config.extends, "out": config.out})
        return 0
    except UserError as error:
        print(f"python -m helpers: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. Run the same command again: what is finished stays, training goes on from the last checkpoint.", file=sys.stderr)
        return 130


def _run(config: Config, settings: dict) -> None:
    # Execute the notebooks 01 to 06 (the side rooms, from 07 on, are not part of a run), each on those of the settings that it declares as
    # parameters and, where it has FILTERS (of the corpus) or SETTINGS, the others; executed copies go into `config.out`
    import papermill  # here: it takes a second to import, and a bad argument should be told at once
    from nbclient.exceptions import DeadKernelError

    logging.disable(logging.ERROR)  # what libraries log of an interrupt or a killed kernel is told in one sentence instead
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # whatever the caller's: figures belong into the copies
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # the kernel's debugger warns about frozen modules otherwise
    rooms = (8,) if config.preset == "words" else range(1, 7)
    notebooks = [path for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")) if int(path.name[:2]) in rooms]
    for place, notebook in enumerate(notebooks, start=1):
        declared = papermill.inspect_notebook(notebook)
        others = {name: value for name, value in settings.items() if name.upper() not in {*declared, "DRIVE_FOLDER"}}
        filters = {name: others.pop(name) for name in CORPUS_SETTINGS if name in others}
        parameters = {name.upper(): value for name, value in settings.items()} | {"FILTERS": filters, "SETTINGS": others}
        own = {name: parameters[name] for name in declared if name in parameters}
        start, line = time.perf_counter(), f"[{place}/{len(notebooks)}] {notebook.stem}"
        print(line, flush=True)
        with new_file(Path(config.out) / notebook.name) as executed:
            (Path(config.out) / notebook.name).unlink(missing_ok=True)  # of an earlier run
            try:
                papermill.execute_notebook(notebook, executed, own, cwd=notebook.parent, progress_bar=False, stdout_file=sys.stdout)
            except DeadKernelError:
                advice = "take fewer --dimensions, or --tables-on-disk; the same command goes on from the last checkpoint, if there is one"
                raise TrainingError(f"The process that ran {notebook.stem} was killed, most likely for want of memory: {advice}.") from None
            except papermill.PapermillExecutionError as error:
                if error.ename in {kind.__name__ for kind in (UserError, *UserError.__subclasses__())}:
                    raise UserError(error.evalue) from None
                failed = shutil.copy(executed, tempfile.mkdtemp(prefix="helpers-"))
                sys.exit(f"{notebook.name} failed in cell {error.exec_count} ({error.ename}: {error.evalue}); see {failed}")
        print(f"{line}: {time.perf_counter() - start:.0f} s", flush=True)
    print(f"Everything is in {config.out}")


if __name__ == "__main__":
    sys.exit(main())
