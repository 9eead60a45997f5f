"""One bit flipped in what lorascope writes: `python benchmarks/flips.py` counts those that `verify` doesn't report.

Two runs of a tiny model, one as `kill.py` captures it, one with the demo's settings and states in half of the rows;
MIUB of the first one, saved as Zarr and as NetCDF; the view's index of the first; run and index in a bundle of the
second. A bundle's pages and manifest aren't tried: no digest covers them. The kinds of files take turns; within a kind
the file is drawn, then the byte in it, then the bit: so the few bytes of the root's attributes get as many flips as all
chunks of states together. `verify` looks at its least thorough level, which every other one includes. Each bit is
flipped back afterwards. Exit code 1 if any flip went unnoticed.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from rounds import print_table, write_json
from tiny_run import make_run

from lorascope.analyze import miub, verify_result
from lorascope.analyze.viewing.bundle import write_bundle
from lorascope.analyze.viewing.index import view_index
from lorascope.analyze.viewing.served_files import INDEX, RUN
from lorascope.stores import StoreError, verify

RUNS = {
    "kill.py's": (),
    "the demo's": ("--tokens", "last:16", "--dtype", "float32", "--states", "sample", "--states-share", "0.5"),
}
"""Run -> further words of its capture."""
RESULTS = {"Zarr result": "result.zarr", "NetCDF result": "result.nc"}
N_CHARACTERS = 6_000
"""Length of their text; with the questions it fills some ten rows."""
NOTICED = ("reported", "refused")
OUTCOMES = (*NOTICED, "unnoticed", "traceback")


class Part(NamedTuple):
    """Bytes that are of one kind."""

    kind: str
    file: Path
    start: int
    stop: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the runs are written; a temporary folder if not given")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    counts: Counter[tuple[str, str]] = Counter()
    sizes: Counter[str] = Counter()
    missed: list[str] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        runs = {
            title: make_run(Path(name) / str(index), N_CHARACTERS, *words)
            for index, (title, words) in enumerate(RUNS.items())
        }
        first, second = runs.values()
        stored = {f"{title} run": (run, by_kind(run), is_run_sound) for title, run in runs.items()}
        bundle = write_bundle(second, Path(name) / "bundle", with_runs=True)
        stored["run of a bundle"] = (copy := bundle / RUN.format(0), by_kind(copy), is_run_sound)
        results = {title: Path(name) / file for title, file in RESULTS.items()}
        for path in results.values():
            miub(first, out=path).close()
        results |= {"index": view_index(first), "index of a bundle": bundle / INDEX.format(0)}
        stored |= {title: (path, by_kind(path, title), is_result_sound) for title, path in results.items()}
        for index, (title, (path, kinds, is_sound)) in enumerate(stored.items()):
            sizes.update({kind: len({part.file for part in parts}) for kind, parts in kinds.items()})
            for flip in range(index, arguments.flips, len(stored)):
                kind = list(kinds)[flip // len(stored) % len(kinds)]
                what, words_of_it = try_flip(path, chance.choice(kinds[kind]), chance, is_sound)
                counts[kind, what] += 1
                if what not in NOTICED:
                    missed.append(f"{title}, {kind}: {words_of_it}: {what}")
                    print(missed[-1], flush=True)
            if not is_sound(path):
                raise SystemExit(f"{title} isn't sound once every bit is back")
    outcomes = [*NOTICED, *sorted({what for _, what in counts} - {*NOTICED})]
    rows = [[kind, sizes[kind], *(counts[kind, what] for what in outcomes)] for kind in sorted(sizes)]
    rows.append(["all", sum(sizes.values()), *(sum(row[2 + at] for row in rows) for at in range(len(outcomes)))])
    print_table(
        f"{arguments.flips} flips of one bit in runs, results, indices and a bundle, {len(missed)} of them unnoticed "
        f"({time.monotonic() - began:.0f} s)",
        ["bit in", "files", *outcomes],
        rows,
    )
    write_json(arguments.json, {"seed": arguments.seed, "missed": missed, "rows": rows})
    sys.exit(bool(missed))


def by_kind(run: Path, result: str = "") -> dict[str, list[Part]]:
    """All bytes of a run, or of this kind of result, by kind."""
    kinds: dict[str, list[Part]] = {}
    for file in sorted(file for file in run.rglob("*") if file.is_file()) or [run]:
        for part in parts_of(run, file, result):
            kinds.setdefault(part.kind, []).append(part)
    return kinds


def is_run_sound(run: Path) -> bool:
    return verify(run, level="digests").ok


def is_result_sound(result: Path) -> bool:
    return not verify_result(result)


def parts_of(run: Path, file: Path, result: str) -> Iterator[Part]:
    if result:
        kind = ("", ": metadata" if file.name == "zarr.json" else ": chunks")[run.is_dir()]
        yield Part(result + kind, file, 0, file.stat().st_size)
        return
    path, size = file.parent.relative_to(run).as_posix(), file.stat().st_size
    if path == ".":  # attributes come before consolidated metadata
        boundary = file.read_bytes().index(b'"consolidated_metadata"')
        yield Part("root: attributes", file, 0, boundary)
        yield Part("root: consolidated metadata", file, boundary, size)
        return
    document = json.loads((file.parent / "zarr.json").read_bytes())
    if file.name == "zarr.json":
        kind = f"metadata of {'an array' if document['node_type'] == 'array' else 'a group'}"
    elif path in ("rows/digest", "rows/commit"):
        kind = "digests of rows"
    elif document["attributes"]["written"] == "by row":
        is_state = path.startswith("states/") or path.endswith("/factor") or "/delta/" in path
        kind = "states, factor, delta" if is_state else "numbers by token"
    else:
        kind = "weights" if "/lora_" in path else "table"
    yield Part(kind, file, 0, size)


def try_flip(run: Path, part: Part, chance: random.Random, is_sound: Callable[[Path], bool]) -> tuple[str, str]:
    """(what came of one flipped bit in this part, which bit it was); it is flipped back."""
    offset, bit = chance.randrange(part.start, part.stop), chance.randrange(8)
    before = part.file.read_bytes()
    after = before[:offset] + bytes([before[offset] ^ 1 << bit]) + before[offset + 1 :]
    part.file.write_bytes(after)
    sys.stdout.flush()
    pid = os.fork()  # a damaged file may crash the library that opens it
    if not pid:
        os._exit(outcome_of(run, is_sound))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    part.file.write_bytes(before)
    what = OUTCOMES[code] if code >= 0 else signal.Signals(-code).name
    name = part.file.relative_to(run).as_posix()
    return what, f"{name}, byte {offset}, bit {bit}, {after[max(offset - 20, 0) : offset + 20]!r}"


def outcome_of(run: Path, is_sound: Callable[[Path], bool]) -> int:
    """The place in `OUTCOMES` of what a check makes of a run or result."""
    try:
        return OUTCOMES.index("unnoticed" if is_sound(run) else "reported")
    except StoreError:
        return OUTCOMES.index("refused")
    except Exception:
        traceback.print_exc()
        return OUTCOMES.index("traceback")


if __name__ == "__main__":
    main()
