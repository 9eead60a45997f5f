"""The same capture started twice: `python benchmarks/double.py` prints a Markdown table by what the first one did then.

The second start comes at a random moment of the first one's life. The first must end well, the second be refused in one
line, or, where it came after the end, find the run complete; and the run must equal an undisturbed one byte for byte.
Exit code 1 if anything else happened. Every process is real, forked from a parent that has imported everything.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import phases
import processes
from kill import prepare
from rounds import print_table, write_json
from same_store import differences
from trials import PATIENCE, Bench


class Double(NamedTuple):
    """Two starts of one capture."""

    phase: str
    """What the first one was doing when the second one began."""
    n_rows: int
    """Rows committed then."""
    first: int
    second: int
    """Exit codes."""
    refused: bool
    """Whether the second one gave one line, and its code is that of a mistake by the user."""
    same: bool
    words: str
    """What the second one printed last."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=20_000, help="characters of the text")
    parser.add_argument("--folder", type=Path, help="where stores are written; a temporary folder if not given")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    processes.warm_up()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        bench = prepare(Path(name), "capture", "fork", 1, random.Random(arguments.seed), arguments.size)
        doubles = [start_twice(bench) for _ in range(arguments.trials)]
    wrong = [one for one in doubles if one.first or not one.same or not (one.refused or one.second == 0)]
    print_doubles(doubles, len(wrong))
    for one in wrong:
        print(f"first ended with {one.first}, second with {one.second} (during {one.phase}): {one.words}")
    for words in [one.words for one in doubles if one.refused][:1]:
        print(words.replace(name, "..."))
    write_json(arguments.json, {"n_wrong": len(wrong), "found": [one._asdict() for one in doubles]})
    sys.exit(len(wrong) > 0)


def start_twice(bench: Bench) -> Double:
    shutil.rmtree(bench.out, ignore_errors=True)
    first = bench.start(1)
    time.sleep(bench.chance.uniform(0, bench.seconds))  # the random moment of the second start
    stacks, n_rows = bench.stacks(first), phases.committed(bench.out)
    at = "after the end" if first.poll() is not None else phases.phase(bench.out, stacks, resumed=False)
    second = processes.fork(bench.words, bench.notes, bench.folder / "second.log")
    codes = first.wait(PATIENCE), second.wait(PATIENCE)
    lines = second.last_words().splitlines() or [""]
    refused = codes[1] == 2 and len(lines) == 1
    same = bench.out.exists() and not differences(bench.reference, bench.out)
    return Double(at, n_rows, *codes, refused, same, lines[-1])


def print_doubles(doubles: list[Double], n_wrong: int) -> None:
    rows = []
    for phase in sorted({one.phase for one in doubles}):
        group = [one for one in doubles if one.phase == phase]
        rows.append(
            [
                phase,
                len(group),
                f"{min(one.n_rows for one in group)} to {max(one.n_rows for one in group)}",
                sum(one.first == 0 for one in group),
                sum(one.refused for one in group),
                sum(one.second == 0 for one in group),
                sum(one.same for one in group),
            ]
        )
    columns = ("second start during", "starts", "rows there", "first finished")
    print_table(
        f"{len(doubles)} captures started twice, {n_wrong} of them not as they should be",
        (*columns, "second refused in one line", "second found it complete", "run equal"),
        rows,
    )


if __name__ == "__main__":
    main()
