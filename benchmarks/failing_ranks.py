"""Captures of which one process is killed or sleeps: `python benchmarks/failing_ranks.py` prints Markdown tables.

    python benchmarks/failing_ranks.py --kills 20    SIGKILL, in four ways
    python benchmarks/failing_ranks.py --sleep       a rank sleeps ten minutes: when the other ends, and its line

A killed capture goes on in a way that is drawn, where it may be killed again. In the end each row must equal that of an
undisturbed capture by as many processes a layer, in every bit; all numbers must equal those of one process to rounding.
Numbers by token whose values jump (shares of swallowed features, tokens that are drawn or ranked) are excluded there.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from processes import Running
from rounds import print_table, write_json
from tiny_run import make_inputs

from lorascope.stores import Run, open_run, run_state, verify
from lorascope.stores.format.meshes import rows_by_mesh

WAYS = {
    "one process": (1, []),
    "two tensor-parallel": (2, ["--tensor-parallel", "2"]),
    "two under FSDP2": (2, ["--fully-shard"]),
    "two by two": (4, ["--tensor-parallel", "2"]),
}
"""Name of each way -> its number of processes, and words of the command."""
LIMIT = 14 * 128 * 2**-24
"""Largest difference from one process, relative to an array's largest value: 14 layers in a row add up at most 128
products each, in another order."""
JUMPS = ("swallowed", "changes/")
AGAIN = 0.35
"""Probability that a capture which goes on is killed as well."""
PATIENCE = 900.0


class Trial(NamedTuple):
    """One capture, killed until it was finished."""

    ways: list[str]
    seconds: list[float]
    """From each kill to the end of all processes."""
    lines: list[str]
    same_bits: bool
    """Whether each row has the bits of an undisturbed capture by as many processes a layer."""
    largest: float
    """Largest difference from one process, relative to the array's largest value."""


def start(way: str, words: list[str], folder: Path, script: tuple[str, ...] = ("-m", "lorascope")) -> Running:
    n, options = WAYS[way]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"] if n > 1 else []
    log = folder / "log"
    command = [sys.executable, *launcher, *script, *words, *options]
    with open(log, "wb") as file:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
    return Running(process.pid, log, n, process)


def finished(way: str, words: list[str], folder: Path) -> float:
    """Seconds that the capture takes to its end."""
    began, running = time.monotonic(), start(way, words, folder)
    if code := running.wait(PATIENCE):
        raise SystemExit(f"{way}: ended with {code}:\n{running.last_words()}")
    return time.monotonic() - began


def kill(way: str, words: list[str], folder: Path, seconds: float, chance: random.Random) -> tuple[float, list[str]]:
    """Kill one process at some moment; seconds until all ended, and their lines. (0, []) if it came too late."""
    running = start(way, words, folder)
    time.sleep(chance.uniform(0.3, 1) * seconds)
    ranks = running.ranks()
    if running.poll() is not None or not ranks:
        running.wait(PATIENCE)
        return 0.0, []
    began = time.monotonic()
    running.send(9, chance.choice(ranks))
    running.wait(PATIENCE)
    return time.monotonic() - began, running.errors()


def compare(run: Run, references: dict[int, Run]) -> tuple[bool, float]:
    """(whether rows have the bits of the reference with as many processes a layer, largest relative difference)."""
    same = all(
        (run.digest(row) == references[n].digest(row)).all()
        for n, ranges in rows_by_mesh(run.attributes, run.committed_rows)
        for first, stop in ranges
        for row in range(first, stop)
    )
    largest, alone = 0.0, references[1]
    for component in run.component_paths:
        for name in ("base", "lora"):
            ours, theirs = (np.asarray(each[component][name]) for each in (run, alone))
            largest = max(largest, float(np.abs(ours - theirs).max() / np.abs(theirs).max()))
    return same and verify(run.path).ok, largest


def run_kills(n_kills: int, folder: Path, words: list[str], out: Path, chance: random.Random) -> list[Trial]:
    seconds: dict[str, float] = {}
    references: dict[int, Run] = {}
    for way in WAYS:
        seconds[way] = finished(way, words, folder)
        n = 2 if "--tensor-parallel" in WAYS[way][1] else 1
        target = folder / f"{way}.zarr"
        out.rename(target)
        references.setdefault(n, open_run(target))
        print(f"{way}: {seconds[way]:.0f} s undisturbed, of {open_run(target).n_rows} rows", flush=True)
        if not compare(open_run(target), references)[0]:
            raise SystemExit(f"an undisturbed capture by {way} differs from one by as many processes a layer")
    trials: list[Trial] = []
    while sum(len(trial.seconds) for trial in trials) < n_kills:
        shutil.rmtree(out, ignore_errors=True)
        ways, waited, lines = [list(WAYS)[len(trials) % len(WAYS)]], [], []
        while True:
            took, said = kill(ways[-1], words, folder, seconds[ways[-1]], chance)
            if not took:
                break
            waited.append(took)
            lines += said
            ways.append(chance.choice(list(WAYS)))
            if chance.random() > AGAIN:
                break
        if run_state(out) != "finished":
            finished(ways[-1], words, folder)
        if waited:
            trials.append(Trial(ways, waited, lines, *compare(open_run(out), references)))
            print(trials[-1], flush=True)
    return trials


def sleep_in_a_rank(words: list[str]) -> int:
    """A capture of which rank 1 sleeps for ten minutes once a row is committed."""
    import torch

    from lorascope.cli.main import main as command

    out = Path(words[words.index("--out") + 1])

    def fall_asleep(*_: object) -> None:
        if os.environ["RANK"] == "1" and run_state(out) == "unfinished" and open_run(out).committed_rows.any():
            (out.parent / "asleep").touch()
            time.sleep(600)

    torch.nn.modules.module.register_module_forward_pre_hook(fall_asleep)
    return command(words)


def main() -> None:
    if sys.argv[1:2] == ["sleeper"]:
        sys.exit(sleep_in_a_rank(sys.argv[2:]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--sleep", action="store_true", help="a rank that sleeps, in place of kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=20_000, help="characters of the text")
    parser.add_argument("--folder", type=Path, help="where stores are written; a temporary folder if not given")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        out = folder / "run.zarr"
        words = ["capture", *make_inputs(folder / "inputs", arguments.size), "--changes", "none", "--out", str(out)]
        if arguments.sleep:
            running = start("two tensor-parallel", words, folder, (__file__, "sleeper"))
            code = running.wait(PATIENCE)
            took = time.time() - (folder / "asleep").stat().st_mtime
            print_table(
                f"A rank that sleeps ten minutes: all had ended after {took:.0f} s, with exit code {code}",
                ("line", "times"),
                [[line, running.errors().count(line)] for line in sorted(set(running.errors()))],
            )
            write_json(arguments.json, {"seconds": took, "code": code, "lines": running.errors()})
            sys.exit(took > 400)
        trials = run_kills(arguments.kills, folder, words, out, random.Random(arguments.seed))
    rows = [
        [", then ".join(t.ways), ", ".join(f"{s:.1f}" for s in t.seconds), t.same_bits, f"{t.largest:.1e}"]
        for t in trials
    ]
    columns = ("killed, then resumed", "s until all had ended", "bits equal", "difference from one process")
    n_wrong = sum(not trial.same_bits or trial.largest > LIMIT for trial in trials)
    print_table(f"{sum(len(t.seconds) for t in trials)} kills: {len(trials) - n_wrong} of {len(trials)}", columns, rows)
    for line in sorted({line for trial in trials for line in trial.lines}):
        print(line)
    write_json(arguments.json, {"n_wrong": n_wrong, "trials": [trial._asdict() for trial in trials]})
    sys.exit(n_wrong > 0)


if __name__ == "__main__":
    main()
