"""Whether two finished runs or studies are the same, byte for byte, except for times."""

import base64
import json
import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import xarray as xr

CLOCK = frozenset({"measured", "started", "time", "train_seconds", "seconds", "root_digest"})
"""Entries of a run's root, and of the record of a training, that say when it was made or how long it took, or that
follow from these."""


def differences(first: Path, second: Path) -> list[str]:
    """A line for each file that only one store has, or whose content differs."""
    names = [
        {file.relative_to(store).as_posix() for file in store.rglob("*") if file.is_file()} for store in (first, second)
    ]
    lines = [
        f"only in {store.name}: {name}"
        for store, own, other in ((first, *names), (second, *names[::-1]))
        for name in sorted(own - other)
    ]
    for name in sorted(names[0] & names[1]):
        one, other = content(first, name), content(second, name)
        if one != other:
            where = [" > ".join(path) for path in unequal(one, other)] if isinstance(one, dict) else []
            lines.append(f"differs: {name} {', '.join(where[:3])}".strip())
    return lines


def unequal(one: Any, other: Any) -> Iterator[tuple[str, ...]]:
    """Keys down to each value that differs in two JSON objects."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        yield ()
        return
    for key in sorted(one.keys() | other.keys()):
        if one.get(key) != other.get(key):
            yield from ((key, *path) for path in unequal(one.get(key), other.get(key)))


def content(store: Path, name: str) -> Any:
    """A file's bytes; of a run's root, a training's record and a unit's results everything but the clock's part."""
    file = store / name
    octets = file.read_bytes()
    if file.suffix == ".nc":  # its attributes hold times
        with xr.open_datatree(file, engine="netcdf4") as results:
            nodes = {node.path: node.to_dataset(inherit=False).drop_attrs().to_dict() for node in results.subtree}
            return json.dumps(nodes, default=str)
    if file.suffix == ".html":
        return re.sub(
            rb"svg\+xml;base64,([\w+/]+=*)", lambda picture: without_name(base64.b64decode(picture[1])), octets
        )
    if file.name != "finetune.json" and (file.name != "zarr.json" or (file.parent.parent / "zarr.json").exists()):
        return octets
    try:
        return without_clock(json.loads(octets))
    except ValueError:
        return octets


def without_name(picture: bytes) -> bytes:
    """An SVG without the random names that Plotly gives to its parts."""
    names = re.findall(rb"(?:defs-|trace|-cb)([0-9a-f]{6})\b", picture)
    return re.sub(b"|".join(names), b"", picture) if names else picture


def without_clock(value: Any) -> Any:
    """JSON without the entries that `CLOCK` names, wherever they are."""
    if isinstance(value, list):
        return [without_clock(one) for one in value]
    if not isinstance(value, dict):
        return value
    clock = CLOCK | {"share"} if "seconds" in value else CLOCK  # what measuring took of a training
    return {key: without_clock(one) for key, one in value.items() if key not in clock}


def check_comparison(store: Path) -> tuple[int, int]:
    """(found, planted): how many of some planted changes, each in a copy of its own, `differences` finds."""
    found = 0
    plants = list(planted(store))
    for plant in plants:
        with tempfile.TemporaryDirectory(dir=store.parent) as folder:
            copy = Path(folder) / "copy"
            shutil.copytree(store, copy, copy_function=os.link)
            plant(copy)
            found += len(differences(store, copy)) == 1
    with tempfile.TemporaryDirectory(dir=store.parent) as folder:
        shutil.copytree(store, Path(folder) / "copy", copy_function=os.link)
        if differences(store, Path(folder) / "copy"):
            raise RuntimeError("a copy of the store counts as different")
    return found, len(plants)


def planted(store: Path) -> Iterator[Callable[[Path], None]]:
    """One byte changed in a file of every kind, one file short by a byte, one gone, one more, one attribute changed."""
    chance = random.Random(0)
    kinds: dict[str, list[str]] = {}
    for file in sorted(store.rglob("*")):
        if file.is_file():
            name = file.relative_to(store).as_posix()
            kinds.setdefault(f"{name.split('/')[0]} {file.name == 'zarr.json'}", []).append(name)
    is_run = (store / "zarr.json").exists()
    if not is_run:  # of a file of results what it says counts, not its bytes
        first, second = [name for name in kinds.pop("results False") if name.endswith(".nc")]
        yield lambda copy: rewrite(copy / first, lambda octets: (store / second).read_bytes())
    for names in kinds.values():
        name = chance.choice(names)
        if name != "zarr.json":
            yield lambda copy, name=name: rewrite(copy / name, change_byte(chance))
    chunk = chance.choice(kinds["states False" if is_run else "work False"])
    yield lambda copy: rewrite(copy / chunk, lambda octets: octets[:-1])
    yield lambda copy: (copy / chunk).unlink()
    yield lambda copy: (copy / chunk).with_name(".litter.partial").write_bytes(b"")
    if is_run:
        yield lambda copy: rewrite(
            copy / "zarr.json", lambda octets: octets.replace(b'"stream": "', b'"stream": "x', 1)
        )


def change_byte(chance: random.Random) -> Callable[[bytes], bytes]:
    def change(octets: bytes) -> bytes:
        place = chance.randrange(len(octets))
        return octets[:place] + bytes([octets[place] ^ 1]) + octets[place + 1 :]

    return change


def rewrite(file: Path, change: Callable[[bytes], bytes]) -> None:
    """Put changed content in a file's place; the old file, which other folders may share, stays as it is."""
    octets = change(file.read_bytes())
    file.unlink()
    file.write_bytes(octets)
