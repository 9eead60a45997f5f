"""One bit flipped anywhere in a finished run: `python benchmarks/flips.py` counts those that `verify` doesn't report.

Two runs of a tiny model, one as `kill.py` captures it, one with the demo's settings and states in half of the rows. The
kinds of files take turns; within a kind the file is drawn, then the byte in it, then the bit: so the few bytes of the
root's attributes get as many flips as all chunks of states together. `verify` looks at its least thorough level, which
every other one includes. Each bit is flipped back afterwards. Exit code 1 if any flip went unnoticed.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rounds import print_table, write_json
from tiny_run import make_run

from lorascope.stores import StoreError, verify

RUNS = {
    "kill.py's": (),
    "the demo's": ("--tokens", "last:16", "--dtype", "float32", "--states", "sample", "--states-share", "0.5"),
}
"""Run -> further words of its capture."""
NOTICED = ("reported", "refused")


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
        for index, (title, words) in enumerate(RUNS.items()):
            run = make_run(Path(name) / str(index), 20_000, *words)
            kinds = by_kind(run)
            sizes.update({kind: len({part.file for part in parts}) for kind, parts in kinds.items()})
            for flip in range(index, arguments.flips, len(RUNS)):
                kind = list(kinds)[flip // len(RUNS) % len(kinds)]
                what, words_of_it = try_flip(run, chance.choice(kinds[kind]), chance)
                counts[kind, what] += 1
                if what not in NOTICED:
                    missed.append(f"{title} run, {kind}: {words_of_it}: {what}")
                    print(missed[-1], flush=True)
            if problems := verify(run).problems:
                raise SystemExit(f"the run isn't sound once every bit is back: {problems[0].message}")
    outcomes = [*NOTICED, *sorted({what for _, what in counts} - {*NOTICED})]
    rows = [[kind, sizes[kind], *(counts[kind, what] for what in outcomes)] for kind in sorted(sizes)]
    rows.append(["all", sum(sizes.values()), *(sum(row[2 + at] for row in rows) for at in range(len(outcomes)))])
    print_table(
        f"{arguments.flips} flips of one bit in two runs, {len(missed)} of them unnoticed "
        f"({time.monotonic() - began:.0f} s)",
        ["bit in", "files", *outcomes],
        rows,
    )
    write_json(arguments.json, {"seed": arguments.seed, "missed": missed, "rows": rows})
    sys.exit(bool(missed))


def by_kind(run: Path) -> dict[str, list[Part]]:
    """All bytes of a run, by kind."""
    kinds: dict[str, list[Part]] = {}
    for file in sorted(file for file in run.rglob("*") if file.is_file()):
        for part in parts_of(run, file):
            kinds.setdefault(part.kind, []).append(part)
    return kinds


def parts_of(run: Path, file: Path) -> Iterator[Part]:
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


def try_flip(run: Path, part: Part, chance: random.Random) -> tuple[str, str]:
    """(what came of one flipped bit in this part, which bit it was); it is flipped back."""
    offset, bit = chance.randrange(part.start, part.stop), chance.randrange(8)
    before = part.file.read_bytes()
    after = before[:offset] + bytes([before[offset] ^ 1 << bit]) + before[offset + 1 :]
    part.file.write_bytes(after)
    try:
        what = "unnoticed" if verify(run, level="digests").ok else "reported"
    except StoreError:
        what = "refused"
    except Exception as error:
        what = f"{type(error).__name__}"
    finally:
        part.file.write_bytes(before)
    name = part.file.relative_to(run).as_posix()
    return what, f"{name}, byte {offset}, bit {bit}, {after[max(offset - 20, 0) : offset + 20]!r}"


if __name__ == "__main__":
    main()
