"""Stores made to harm, given to every reader: `python benchmarks/hostile.py` prints what each one made of them.

A sound run of a tiny model is spoilt in 200 ways (`hostile_stores.py`). Each is read by the functions and commands
below, each in a process of its own, forked from one that has done all of them with the sound run. A reader may read on,
find problems, or refuse in one line: StoreError, ValueError or OSError of a function, exit code 1 or 2 of a command. A
traceback, characters that a terminal obeys, five seconds more than the sound run takes (twice in a row), or 512 MiB of
memory more is a failure, and the exit code is 1. `--only SEED` tries one case and shows what was printed.
"""

import argparse
import faulthandler
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from shutil import rmtree
from typing import NamedTuple

import dask
from hostile_stores import make_hostile
from rounds import print_table, write_json
from tiny_run import make_run

from lorascope.cli.main import main as command
from lorascope.stores import open_run, verify
from lorascope.stores.reading.read import missing_chunks
from lorascope.stores.visible import COMMANDS as OBEYED

Reader = Callable[[Path, Path], object]
"""Takes a run and a folder of its own; a command returns its exit code, a function something else."""
EXTRA_SECONDS, EXTRA_BYTES = 5.0, 512 * 2**20
ADDRESS_BYTES = 6 * 2**30
"""What a reader may map on top, so that the machine outlives it."""
GOOD = ("read", "problems reported", "refused")


class Outcome(NamedTuple):
    """What became of one reader."""

    what: str
    words: str
    seconds: float
    n_bytes: int
    """Largest resident memory, beyond that of the process it was forked from."""


def read_parts(run: Path, scratch: Path) -> object:
    """Every table, and the states of a component."""
    opened = open_run(run)
    tables = (opened.samples, opened.choices, opened.tokens, opened.components, *map(opened.adapter, opened.adapters))
    for component in opened.component_paths[:1]:
        opened.base(component).values  # noqa: B018 (reads)
        for adapter in opened.adapters[:1]:
            opened.lora(component, adapter).values  # noqa: B018
            opened.take([0], adapter=adapter)
    return tables


READERS: dict[str, Reader] = {
    "verify, digests": lambda run, scratch: verify(run, level="digests").problems,
    "verify, decode": lambda run, scratch: verify(run, level="decode").problems,
    "open_run and parts": read_parts,
    "missing_chunks": lambda run, scratch: missing_chunks(run),
    "`verify`": lambda run, scratch: command(["verify", str(run)]),
    "`info`": lambda run, scratch: command(["info", str(run)]),
    "`info --json`": lambda run, scratch: command(["info", str(run), "--json"]),
    "`miub`": lambda run, scratch: command(["miub", str(run), "--full"]),
    "`pull`": lambda run, scratch: command(["pull", str(run), str(scratch / "part.zarr")]),
    "`report`": lambda run, scratch: command(["report", str(run), "--out", str(scratch / "page.html")]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="seed of the first case")
    parser.add_argument("--only", type=int, help="seed of the only case")
    parser.add_argument("--folder", type=Path, help="where stores are written; a temporary folder if not given")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    first, n_cases = (arguments.first, arguments.cases) if arguments.only is None else (arguments.only, 1)
    began = time.monotonic()
    failed: list[tuple[int, str, str, Outcome]] = []
    counts: Counter[tuple[str, str]] = Counter()
    worst = dict.fromkeys(READERS, (0.0, 0))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        sound = make_run(folder / "inputs", 4_000, "--states", "sample", "--states-share", "0.6")
        warm_up(sound, folder / "scratch")
        usual = {reader: try_reader(reader, sound, folder, None) for reader in READERS}
        for reader, outcome in usual.items():
            print(f"{reader}: {outcome.seconds:.1f} s, {outcome.what}", flush=True)
            if outcome.what != "read":
                raise SystemExit(f"{reader} of the sound run: {outcome.words}")
        for seed in range(first, first + n_cases):
            run = folder / "hostile.zarr"
            description = make_hostile(sound, run, seed)
            for reader in READERS:
                outcome = try_reader(reader, run, folder, usual[reader])
                if outcome.what == "hung":
                    outcome = try_reader(reader, run, folder, usual[reader])
                counts[reader, outcome.what] += 1
                more = (outcome.seconds - usual[reader].seconds, outcome.n_bytes - usual[reader].n_bytes)
                worst[reader] = tuple(map(max, worst[reader], more))
                if outcome.what not in GOOD:
                    failed.append((seed, description, reader, outcome))
                    print(f"case {seed} ({description}), {reader}: {outcome.what}: {outcome.words}"[:900], flush=True)
                elif arguments.only is not None:
                    print(f"{reader}: {outcome.what}: {outcome.words}")
            rmtree(run)
    print_counts(counts, worst, n_cases, len({seed for seed, *_ in failed}), time.monotonic() - began)
    write_json(arguments.json, {"failed": [(*case[:3], case[3]._asdict()) for case in failed]})
    sys.exit(bool(failed))


def warm_up(sound: Path, scratch: Path) -> None:
    """Import and compile all that the readers need, so that each of their processes begins at once."""
    scratch.mkdir()
    # A pool of Dask's would outlive this, and its threads wouldn't be there in a forked process.
    with open(scratch / "log", "w") as log, redirect_stdout(log), dask.config.set(scheduler="synchronous"):
        for reader in READERS.values():
            reader(sound, scratch)
    others = [one.name for one in threading.enumerate() if one is not threading.main_thread()]
    print(f"threads other than the main one, which no forked process has: {others or 'none'}")


def try_reader(reader: str, run: Path, folder: Path, usual: Outcome | None) -> Outcome:
    """One reader in a process of its own, which is ended when it has had its time."""
    scratch = folder / "scratch"
    rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    limit = 300.0 if usual is None else usual.seconds + EXTRA_SECONDS
    sys.stdout.flush()
    own = resident_bytes()
    began = time.monotonic()
    pid = os.fork()
    if not pid:
        in_child(READERS[reader], run, scratch, limit)
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        seconds = time.monotonic() - began
        if ended:
            break
        if seconds > limit:
            os.killpg(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            break
        time.sleep(0.002)  # between looks at whether it has ended, which `wait4` alone would not bound
    words = (scratch / "log").read_text(errors="replace").strip() if (scratch / "log").exists() else ""
    n_bytes = usage.ru_maxrss * 1024 - own  # below 0 at times: a fork lacks pages of files
    if seconds > limit:
        return Outcome("hung", words[-400:], seconds, n_bytes)
    if not (scratch / "outcome").exists():
        return Outcome("died", f"status {status}: {words[-400:]}", seconds, n_bytes)
    what, description = json.loads((scratch / "outcome").read_text())
    if usual is not None and n_bytes > usual.n_bytes + EXTRA_BYTES:
        return Outcome("memory", f"{n_bytes / 2**20:.0f} MiB; {what}: {description}", seconds, n_bytes)
    return Outcome(what, description, seconds, n_bytes)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def in_child(reader: Reader, run: Path, scratch: Path, limit: float) -> None:
    """Run it, leave its outcome in `scratch`, and end the process."""
    try:
        os.setsid()
        log = os.open(scratch / "log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(scratch)
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_BYTES,) * 2)
        faulthandler.dump_traceback_later(limit - 0.3)
        found = judge(reader, run, scratch)
        sys.stdout.flush()
        sys.stderr.flush()
        printed = (scratch / "log").read_text(errors="surrogateescape")
        page = scratch / "page.html"
        if found[0] in GOOD and (
            (description := OBEYED.search(printed)) or (page.exists() and b"\x1b" in page.read_bytes())
        ):
            found = ("obeyed characters", f"{description or 'in the page'}")
        if found[0] in GOOD and "Traceback" in printed:
            found = ("traceback", printed[-400:])
        (scratch / "outcome").write_text(json.dumps(found))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(0)


def judge(reader: Reader, run: Path, scratch: Path) -> tuple[str, str]:
    """(what became of it, in whose words)."""
    try:
        found = reader(run, scratch)
    except (ValueError, OSError) as error:
        words = f"{type(error).__name__}: {error}"
        return ("unclear" if "\n" in words or OBEYED.search(words) else "refused"), words[:400]
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        own = [one for one in traceback.extract_tb(error.__traceback__) if "lorascope" in one.filename][-1:]
        places = " < ".join(f"{Path(one.filename).name}:{one.lineno} {one.name}" for one in (frame, *own))
        return "traceback", f"{type(error).__name__}: {error!s:.200} in {places}"
    if not isinstance(found, int):
        return ("problems reported" if found and isinstance(found, tuple | list) and reader in NOTING else "read"), ""
    sys.stderr.flush()
    sys.stdout.flush()
    last = (scratch / "log").read_text(errors="replace").strip()[-400:]
    return {0: "read", 1: "problems reported", 2: "refused"}.get(found, f"exit code {found}"), last


NOTING = [READERS[name] for name in ("verify, digests", "verify, decode", "missing_chunks")]
"""Functions that return what they found."""


def print_counts(
    counts: Counter[tuple[str, str]], worst: dict[str, tuple[float, int]], n_cases: int, n_failed: int, seconds: float
) -> None:
    outcomes = [*GOOD, *sorted({what for _, what in counts} - {*GOOD})]
    print_table(
        f"{n_cases} hostile runs; at least one reader failed on {n_failed} of them ({seconds:.0f} s)",
        ["reader", *outcomes, "s more at most", "MiB more at most"],
        [
            [reader, *(counts[reader, what] for what in outcomes), f"{more:.1f}", f"{n_bytes / 2**20:.0f}"]
            for reader, (more, n_bytes) in worst.items()
        ],
    )


if __name__ == "__main__":
    main()
