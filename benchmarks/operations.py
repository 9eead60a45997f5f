"""Every command that writes, killed before a random file operation: `python benchmarks/operations.py` prints counts.

    python benchmarks/operations.py             100 trials: killed once or several times, given again until it ends
    python benchmarks/operations.py --double    each command started twice, at a random operation of the first one

An operation changes what is on the disk: a file is opened to be written, flushed, renamed, deleted or cut, a folder
made or removed. A process counts its own and sends itself SIGKILL before the n-th. Half of the numbers are drawn of all
operations of an undisturbed run, half of those of a kind that is drawn first, so that the few at the beginning and end
get their share. The same command must then end with an equal result (byte for byte, except for times), or say in one
line what to do. Exit code 1 if anything else happened. What a killed process left under a name of its own is counted.
"""

import argparse
import itertools
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import dask
import processes
from processes import Running
from rounds import print_table, write_json
from same_store import differences
from trials import AGAIN
from writers import INDEX, Writer, empty_out, writers

CHANGING = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")
"""Audit events of file operations that change something, with their path first; `open` is one only for writing."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
OWN = re.compile(r"(^|/)\.[^/]+\.(partial|lock|unfinished|training)(/|$)")
"""Paths that no reader looks at: what a process writes under a name of its own until it is whole."""
PATIENCE = 400.0


class Ended(NamedTuple):
    """What became of a command that was killed, or started twice."""

    command: str
    operations: list[str]
    """What it was about to do when it was killed, or what the first one had done when the second one began."""
    codes: list[int]
    """Exit codes of the processes that weren't killed."""
    differences: list[str]
    left: list[str]
    """Files under names of a process's own."""
    words: str
    """The last line of those that were refused, which the error must be; all of them if there is a traceback."""

    @property
    def outcome(self) -> str:
        """What it counts as; capitals and `unequal` are failures."""
        plain = all(line.startswith("lorascope: error: ") for line in self.words.splitlines())
        if (any(self.codes) and not self.words) or not plain or not {*self.codes} <= {0, 2}:
            return "FAILED"
        if 0 not in self.codes:
            return "refused in one line, " + ("though unequal" if self.differences else "as it was whole already")
        return "UNEQUAL" if self.differences else "equal"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100, help="trials of all commands together")
    parser.add_argument("--double", action="store_true", help="start twice instead of killing")
    parser.add_argument("--only", help="pattern of the commands to try")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=3_000, help="characters of the text")
    parser.add_argument("--folder", type=Path, help="where everything is written; a temporary folder if not given")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chance, ended = random.Random(arguments.seed), []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        tried = [writer for writer in writers(folder, arguments.size) if re.search(arguments.only or "", writer.name)]
        warm_up(folder)
        for place, writer in enumerate(tried):
            log = undisturbed(writer, folder)
            for _ in range(place, arguments.n, len(tried)):
                one = (start_twice if arguments.double else kill)(writer, folder, log, chance)
                ended.append(one)
                if one.outcome != "equal":
                    print(f"{one.outcome}: `{one.command}` {one}"[:1500].replace(name, "..."), flush=True)
    counts = Counter((one.command, one.outcome) for one in ended)
    outcomes = sorted({outcome for _, outcome in counts})
    rows: list[list[Any]] = []
    for command in [writer.name for writer in tried]:
        own = [one for one in ended if one.command == command]
        n_left = sum(bool(one.left) for one in own)
        rows.append([command, len(own), sum(len(one.operations) for one in own)])
        rows[-1] += [*(counts[command, outcome] for outcome in outcomes), n_left]
    rows.append(["all", *(sum(row[at] for row in rows) for at in range(1, len(rows[0])))])
    how = "started twice" if arguments.double else "killed before random file operations"
    columns = ["command", "trials", "second starts" if arguments.double else "kills", *outcomes, "hidden files left"]
    print_table(f"{len(ended)} trials of commands that write, {how}", columns, rows)
    write_json(arguments.json, {"found": [one._asdict() for one in ended]})
    sys.exit(any(outcome.isupper() or "unequal" in outcome for outcome in outcomes))


def warm_up(folder: Path) -> None:
    """Import and compile what the commands need; no thread is started, so that a fork is whole."""
    processes.warm_up()
    import lorascope.study.running.run  # noqa: F401
    from lorascope.analyze import viewing  # noqa: F401
    from lorascope.analyze.viewing.index import view_index
    from lorascope.capture.training import checkpoints
    from lorascope.cli.main import app
    from lorascope.cli.main import main as command

    app.command(lambda run: view_index(run) and None, name=INDEX)
    checkpoints.SECONDS = 0.0  # a checkpoint after every step
    run, adapter = str(folder / "run.zarr"), ("--adapter", "whole")
    # A pool of Dask's would outlive this, and its threads wouldn't be there in a forked process.
    with open(folder / "log", "w") as log, redirect_stdout(log), dask.config.set(scheduler="synchronous"):
        command(["miub", run, *adapter, "--out", str(folder / "warm.nc")])
        command(["report", run, *adapter, "--out", str(folder / "warm.html")])


def start(writer: Writer, folder: Path, name: str, last: int | None = None) -> Running:  # noqa: RET503 (a child never gets there)
    """The command in a fork; it notes its operations in `name`.operations, and is killed before number `last`."""
    sys.stdout.flush()
    log = folder / f"{name}.log"
    pid = os.fork()
    if pid:
        return Running(pid, log, 1)
    processes.become(writer.words, log, lambda: watch(str(writer.out), folder / f"{name}.operations", last))


def watch(below: str, log: Path, last: int | None) -> None:
    """Note each operation of this process below a folder, and kill the process before number `last`, from 1."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    own, numbers, fsync = os.getpid(), itertools.count(1), os.fsync

    def note(operation: str, place: Any, at: Any = None) -> None:
        """Note an operation on a path, relative to the folder of a descriptor if `at` is one, or on a descriptor."""
        path = os.readlink(f"/proc/self/fd/{place}") if isinstance(place, int) else os.fsdecode(place)
        if isinstance(at, int) and at >= 0 and not path.startswith("/"):
            path = os.readlink(f"/proc/self/fd/{at}") + "/" + path
        if path.startswith(below) and os.getpid() == own:
            os.write(descriptor, f"{operation} {path[len(below) + 1 :]}\n".encode(errors="replace"))
            if next(numbers) == last:
                os.kill(own, signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGING:
            note(event, arguments[0], arguments[-1])
        elif event == "open" and isinstance(arguments[0], str | bytes) and arguments[2] & WRITING:
            note(event, arguments[0])

    def noted_fsync(file: Any) -> None:
        note("fsync", file if isinstance(file, int) else file.fileno())
        fsync(file)

    sys.addaudithook(hook)
    os.fsync = noted_fsync


def undisturbed(writer: Writer, folder: Path) -> list[str]:
    """Its operations; two results must be equal, and the comparison find a file that is missing, and a changed one."""
    reference = folder / "reference"
    for at in (reference, writer.out):
        empty_out(writer)
        began = time.monotonic()
        if start(writer, folder, "first").wait(PATIENCE):
            raise SystemExit(f"an undisturbed `{writer.name}` failed:\n{(folder / 'first.log').read_text()}")
        seconds = time.monotonic() - began
        if at == reference:
            empty_out(writer._replace(template=writer.out, out=reference))
    if found := unequal(reference, writer.out):
        raise SystemExit(f"two undisturbed results of `{writer.name}` differ: {found[:5]}")
    log = (folder / "first.operations").read_text().splitlines()
    files = sorted(file for file in writer.out.rglob("*") if file.is_file() and file.suffix not in (".json", ".yaml"))
    files[-1].write_bytes(files[-1].read_bytes()[:-1])
    files[0].unlink()
    if (n_found := len(unequal(reference, writer.out))) != min(len(files), 2):
        raise SystemExit(f"of 2 planted changes of `{writer.name}`, {n_found} were found")
    print(f"`{writer.name}`: {len(log)} operations, {seconds:.1f} s, two results are equal", flush=True)
    return log


def unequal(reference: Path, out: Path) -> list[str]:
    """Differences, except for files under names of a process's own."""
    return [line for line in differences(reference, out) if not OWN.search(line.rpartition(": ")[2])]


def draw(log: list[str], chance: random.Random) -> int:
    """The number of an operation: any, or any of a kind that is drawn first."""
    if chance.random() < 0.5:
        return chance.randint(1, len(log))
    kinds: dict[str, list[int]] = {}
    for number, line in enumerate(log, 1):
        kinds.setdefault(re.sub(r"[0-9a-f]{8}|\d+", "#", line), []).append(number)
    return chance.choice(chance.choice(list(kinds.values())))


def kill(writer: Writer, folder: Path, log: list[str], chance: random.Random) -> Ended:
    """Kill it once or several times, then let it end."""
    empty_out(writer)
    operations: list[str] = []
    while True:
        last = draw(log, chance) if not operations or chance.random() < AGAIN else None
        code = start(writer, folder, "first", last).wait(PATIENCE)
        if code == -signal.SIGKILL:
            operations.append((folder / "first.operations").read_text().splitlines()[-1])
        elif operations:
            return judge(writer, folder, operations, {"first": code})
        else:  # it came to fewer operations than the undisturbed one
            empty_out(writer)


def start_twice(writer: Writer, folder: Path, log: list[str], chance: random.Random) -> Ended:
    """Start it, and again before a random operation of the first."""
    empty_out(writer)
    number, noted = draw(log, chance), folder / "first.operations"
    noted.unlink(missing_ok=True)
    first = start(writer, folder, "first")
    while first.poll() is None and not (noted.exists() and noted.read_bytes().count(b"\n") >= number):
        time.sleep(0.0005)
    at = noted.read_text().splitlines()[-1]
    second = start(writer, folder, "second")
    codes = {"first": first.wait(PATIENCE), "second": second.wait(PATIENCE)}
    return judge(writer, folder, [at], codes)


def judge(writer: Writer, folder: Path, operations: list[str], codes: dict[str, int]) -> Ended:
    """What came of it, with the words of those that failed."""
    words = [(folder / f"{name}.log").read_text(errors="replace").strip() for name, code in codes.items() if code]
    left = [file.relative_to(writer.out).as_posix() for file in writer.out.rglob("*")]
    return Ended(
        writer.name,
        operations,
        [*codes.values()],
        unequal(folder / "reference", writer.out)[:8],
        [name for name in left if OWN.search(name)],
        "\n".join(text if "Traceback" in text else (text.splitlines() or [""])[-1] for text in words),
    )


if __name__ == "__main__":
    main()
