"""Commands that are killed and started again: `python benchmarks/kill.py` prints a Markdown table by phase.

    python benchmarks/kill.py                                100 stores, SIGKILL; each start forked from a warm parent
    python benchmarks/kill.py --start command --trials 10    the same with `python -m lorascope`
    python benchmarks/kill.py --ranks 3 --trials 20          torchrun; one rank is killed, or all of them
    python benchmarks/kill.py --mixture pair --trials 20     captures of a mixture's experts, in this stream
    python benchmarks/kill.py --signals 20                   SIGTERM and SIGINT: the exit code, what is left

Of 100 stores 70 are captured, 15 pulled, and 15 are studies of two units, runs and adapters included. A
tiny model with its adapter, questions and a text make a run of some 25 rows. A trial starts the command, kills it at a
random moment (half of them uniform over its life, half in a phase that is waited for), starts the same command again,
kills that one too with some probability, until it ends; then all files are compared with those of an undisturbed one,
byte for byte. The comparison is tried on planted changes first. Every process is real, and so is every kill.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import processes
from rounds import print_table, write_json
from same_store import check_comparison, differences
from tiny_run import COMMANDS, prepare_command
from trials import Bench, Stopped, Trial, run_stop, run_trial, undisturbed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--start", choices=("fork", "command"), default="fork")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--signals", type=int, default=0, help="trials of SIGTERM and SIGINT in place of SIGKILL")
    parser.add_argument("--mixture", choices=("adapted", "pair"), default="", help="stream; only captures, of experts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=20_000, help="characters of the text")
    parser.add_argument("--folder", type=Path, help="where stores are written; a temporary folder if not given")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    processes.warm_up()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        chance, how = random.Random(arguments.seed), describe(arguments)
        others = 0 if arguments.signals or arguments.ranks > 1 or arguments.mixture else arguments.trials * 15 // 100
        numbers = dict.fromkeys(COMMANDS, others) | {"capture": arguments.trials - 2 * others}
        setting = (arguments.start, arguments.ranks, chance, arguments.size, arguments.mixture)
        if arguments.signals:
            bench = prepare(Path(name), "capture", *setting)
            stopped = [run_stop(bench, index) for index in range(arguments.signals)]
            print_stopped(stopped, how)
            n_wrong, found = sum(stop.n_litter > 0 or not stop.same for stop in stopped), stopped
        else:
            trials = []
            for command, number in numbers.items():
                if number:
                    bench = prepare(Path(name) / command, command, *setting)
                    trials += [run_and_report(bench, index) for index in range(number)]
            print_kills(trials, how)
            n_wrong, found = sum(bool(trial.differences) for trial in trials), trials
    write_json(arguments.json, {"how": how, "n_wrong": n_wrong, "found": [entry._asdict() for entry in found]})
    sys.exit(n_wrong > 0)


def prepare(
    folder: Path, command: str, start: str, n_ranks: int, chance: random.Random, size: int, mixture: str
) -> Bench:
    """Inputs, an undisturbed result, a second one that must equal it, and a comparison that finds planted changes."""
    (folder / "notes").mkdir(parents=True)
    words, out = prepare_command(command, folder, size, mixture)
    bench = Bench(folder, command, words, out, folder / "reference", start, n_ranks, 0.0, chance)
    undisturbed(bench, 1)
    out.rename(bench.reference)
    began = time.monotonic()
    undisturbed(bench, n_ranks)
    bench = bench._replace(seconds=time.monotonic() - began)
    if found := differences(bench.reference, out):
        raise SystemExit(f"two undisturbed results of `{command}` differ: {found[:5]}")
    shutil.rmtree(out)
    n_files = sum(file.is_file() for file in bench.reference.rglob("*"))
    print(f"An undisturbed `{command}` takes {bench.seconds:.1f} s and leaves {n_files} files; two are equal.")
    n_found, n_planted = check_comparison(bench.reference)
    print(f"The comparison found {n_found} of {n_planted} planted changes.", flush=True)
    if n_found < n_planted:
        raise SystemExit("the comparison is blind to some of them")
    return bench


def describe(arguments: argparse.Namespace) -> str:
    if arguments.mixture:
        print(f"A mixture with an adapter on its experts, stream `{arguments.mixture}`.")
    if arguments.ranks > 1:
        return f"torchrun, {arguments.ranks} ranks, started again with 1 to {arguments.ranks + 1}"
    return {"fork": "forked from a warm parent", "command": "`python -m lorascope`"}[arguments.start]


def run_and_report(bench: Bench, index: int) -> Trial:
    """Run one trial, and print a difference at once."""
    trial = run_trial(bench)
    if trial.differences:
        print(f"`{bench.command}`, trial {index}: {trial.kills}: {trial.differences[:5]}", flush=True)
    return trial


def print_kills(trials: Sequence[Trial], how: str) -> None:
    kills = [(kill, trial) for trial in trials for kill in trial.kills]
    rows: list[list[Any]] = []
    for command, phase in sorted({(trial.command, kill.phase) for kill, trial in kills}):
        group = [(kill, trial) for kill, trial in kills if (trial.command, kill.phase) == (command, phase)]
        n_rows = [kill.n_rows for kill, _ in group]
        n_equal = sum(not trial.differences for _, trial in group)
        rows.append(
            [
                f"`{command}`: {phase}",
                len(group),
                sum(kill.passing for kill, _ in group),
                sum(kill.resumed for kill, _ in group),
                f"{min(n_rows)} to {max(n_rows)}",
                n_equal,
            ]
        )
    n_equal = sum(not trial.differences for trial in trials)
    passing, resumed = (sum(getattr(kill, what) for kill, _ in kills) for what in ("passing", "resumed"))
    rows.append(["all", len(kills), passing, resumed, "", ""])
    print_table(
        f"{len(trials)} stores, {len(kills)} SIGKILLs ({how}): {n_equal} equal the undisturbed one",
        (
            "killed during",
            "kills",
            "in a forward pass",
            "in a resumed process",
            "rows there",
            "finished store equal",
        ),
        rows,
    )
    lines = [kill.lines for kill, _ in kills if kill.lines]
    for line, number in Counter(line for said in lines for line in said).most_common():
        print(f"{number} times: {line}")
    if lines:
        print(
            f"{len(lines)} kills after which other ranks said why they ended, in at most {max(map(len, lines))} lines"
        )


def print_stopped(stopped: Sequence[Stopped], how: str) -> None:
    groups: dict[tuple[str, str, int], list[Stopped]] = {}
    for stop in stopped:
        groups.setdefault((stop.signal, stop.phase, stop.code), []).append(stop)
    rows = [
        [
            f"{name} during {phase}",
            len(group),
            code,
            f"{max(stop.seconds for stop in group):.1f}",
            max(stop.n_further for stop in group),
            sum(stop.n_litter for stop in group),
            sum(stop.same for stop in group),
        ]
        for (name, phase, code), group in sorted(groups.items())
    ]
    columns = (
        "asked to stop",
        "times",
        "exit code",
        "s at most",
        "further rows at most",
        "torn files",
        "finished equal",
    )
    print_table(f"{len(stopped)} captures that a signal stopped ({how}), each started again", columns, rows)
    for words in sorted({stop.words for stop in stopped}):
        print(words)


if __name__ == "__main__":
    main()
