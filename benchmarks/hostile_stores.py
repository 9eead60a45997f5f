"""Runs made to harm: a sound one spoilt by one to three mutations, drawn by a seed, in half of the cases sealed.

A sealed case lies consistently: checksums, digests of rows and of all that is written once, and those of metadata are
recomputed over what was forged, as its author would.
"""

import hashlib
import json
import os
import random
import shutil
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs.blosc
import numpy as np
from zarr.core.metadata import ArrayV3Metadata

from lorascope.stores.format.codec import encode_chunk
from lorascope.stores.format.digests import chunk_digest, combine_digests, combine_row_digests, with_fingerprint
from lorascope.stores.format.layout import DIGEST_ARRAYS, DIGESTS
from lorascope.stores.format.spec import FORMAT_VERSION
from lorascope.stores.format.stored_array import StoredArray
from lorascope.stores.format.stored_spec import describe_array
from lorascope.stores.places.place import open_place
from lorascope.stores.writing.write import write_document

Mutation = Callable[[Path, random.Random], str]
"""Spoils the run and says how."""
DEEP = "@nested@"
"""Stands for a hundred thousand nested lists, which no encoder of JSON would write."""
MANY = 10**12
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 0.5, 2**31, MANY, 10**400, float("nan"), "", "../../x", "\x1b[2J\x1b[31m", "\ud800", "a\nb"),
    *("x" * 2**20, [], {}, [[]], [-1], [MANY], [0] * 10**5, ["\ud83d"], {"a": {"b": 1}}, DEEP),
)
NAMES: tuple[Any, ...] = (
    *([], ["../x"], ["/etc"], ["\x1b[31m"], ["\ud800"], ["default"] * 2, ["a"] * 10**5, [1], "default", {}, ["", "."]),
)
TEXTS = ("", "../../x", "/etc/passwd", "\x1b[2J\x1b[31m", "a\nb", "<script>alert(1)</script>", "x" * 2**20, "\u202e")
NUMBERS: dict[str, tuple[float, ...]] = {"f": (np.nan, np.inf, -np.inf, 1e308, -1.0, 0.0), "u": (0, 255)}
NUMBERS["i"] = (-1, -(2**31), 2**31 - 1, 10**9, 0, 127)


def make_hostile(sound: Path, run: Path, seed: int) -> str:
    """Put a spoilt copy of a sound run at `run`; returns what was done to it."""
    chance = random.Random(seed)
    shutil.copytree(sound, run, copy_function=os.link)
    sealed = seed % 2 == 1
    # What can't be hashed comes after the seal.
    drawn = chance.choices(FORGED if sealed and chance.random() < 0.7 else FORGED + BROKEN, k=1 + seed % 3)
    description = [attempt(mutation, run, chance) for mutation in drawn if mutation in FORGED]
    if sealed and description:
        description.append(attempt(partial(seal, sound), run, chance))
    description += [attempt(mutation, run, chance) for mutation in drawn if mutation in BROKEN]
    if seed == 99:
        description.append(many_files(run))
    return "; ".join(description)


def attempt(mutation: Mutation, run: Path, chance: random.Random) -> str:
    """What a mutation says it did; an earlier one may have left nothing for it."""
    try:
        return mutation(run, chance)
    except (ValueError, TypeError, LookupError, AttributeError, OSError, RuntimeError):
        return f"no room for {getattr(mutation, '__name__', 'a seal')}"


def root_attribute(run: Path, chance: random.Random) -> str:
    document = json.loads((run / "zarr.json").read_bytes())
    place, path = document["attributes"], []
    while True:
        path.append(chance.choice(sorted(place)))
        if not isinstance(place[path[-1]], dict) or not place[path[-1]] or chance.random() < 0.3:
            break
        place = place[path[-1]]
    if chance.random() < 0.2:
        del place[path[-1]]
        description = "gone"
    else:
        place[path[-1]] = chance.choice(NAMES if path == ["adapters"] else ODD)
        description = f"is {place[path[-1]]!r:.40}"
    put_json(run / "zarr.json", document)
    return f"attribute {'.'.join(path)} {description}"


def adapters(run: Path, chance: random.Random) -> str:
    names = chance.choice(NAMES)
    change_root(run, lambda document: document["attributes"].update(adapters=names))
    return f"adapters are {names!r:.40}"


def token_axis(run: Path, chance: random.Random) -> str:
    """A token axis of a million million, in all that says how long it is."""
    n_tokens = json.loads((run / "zarr.json").read_bytes())["attributes"]["n_tokens"]
    many = chance.choice((MANY, 10**9, 2**63, n_tokens + 5000))

    def change(path: str, node: dict[str, Any]) -> None:
        if path in DIGEST_ARRAYS:
            node["shape"][0] = -(-many // 1024)
        elif node.get("shape", [0])[0] == n_tokens:
            node["shape"][0] = many

    change_nodes(run, change)
    change_root(run, lambda document: document["attributes"].update(n_tokens=many, n_rows=-(-many // 1024)))
    return f"{many} tokens"


def node_field(run: Path, chance: random.Random) -> str:
    """A field of an array's metadata, its own, the consolidated one, or both."""
    chosen = chance.choice(arrays(run))
    document = json.loads((run / chosen / "zarr.json").read_bytes())
    field = chance.choice(sorted(document))
    shape = document["shape"]
    likely: dict[str, tuple[Any, ...]] = {
        "shape": ([MANY, *shape[1:]], [-1, *shape[1:]], [0, *shape[1:]], [*shape, MANY], [], [*shape[:-1], 2**31 - 1]),
        "data_type": ("float64", "string", "variable_length_bytes", "complex128", "r8", "int8"),
        "chunk_grid": tuple({"name": "regular", "configuration": {"chunk_shape": s}} for s in ([0], [MANY], [-1, 1])),
        "codecs": ([], [{"name": "numcodecs.pickle"}], [{"name": "gzip", "configuration": {"level": 1}}], [{}]),
        "fill_value": ("NaN", 0, "0x00", 1e400, MANY, "Infinity"),
        "dimension_names": (["token"] * 5, [None], ["\x1b[31m", "feature"], "token", [["token"]]),
        "node_type": ("group", "array", "\x1b"),
    }
    document[field] = chance.choice(likely[field] if field in likely and chance.random() < 0.7 else ODD)
    where = chance.choice(("own", "consolidated", "both"))
    if where != "consolidated":
        put_json(run / chosen / "zarr.json", document)
    if where != "own":
        change_root(run, lambda root: root["consolidated_metadata"]["metadata"].update({chosen: document}))
    return f"{field} of {chosen} is {document[field]!r:.50} ({where})"


def consolidated(run: Path, chance: random.Random) -> str:
    description = chance.choice(
        ("missing", "odd", "odd metadata", "an entry missing", "an entry odd", "a name odd", "huge")
    )

    def change(root: dict[str, Any]) -> None:
        entries = root["consolidated_metadata"]["metadata"]
        name = chance.choice(sorted(entries))
        if description == "missing":
            del root["consolidated_metadata"]
        elif description == "odd":
            root["consolidated_metadata"] = chance.choice(ODD)
        elif description == "odd metadata":
            root["consolidated_metadata"]["metadata"] = chance.choice(ODD)
        elif description == "an entry missing":
            del entries[name]
        elif description == "an entry odd":
            entries[name] = chance.choice(ODD)
        elif description == "a name odd":
            entries[chance.choice(("../../x", "", "/", "a//b", "\x1b[2J", "\ud800", "x" * 5000))] = entries[name]
        else:
            entries.update({f"states/many.{index}": entries[name] for index in range(chance.choice((4_000, 20_000)))})

    change_root(run, change)
    return f"consolidated metadata: {description}"


def table_column(run: Path, chance: random.Random) -> str:
    """Values of a table that no capture writes, well encoded."""
    chosen = chance.choice([path for path in arrays(run) if (run / path / "c.0").exists()])
    array, _ = stored(run, chosen)
    values = array.decode(0, (run / chosen / "c.0").read_bytes()).copy()
    value = chance.choice(TEXTS if values.dtype.kind == "T" else NUMBERS[values.dtype.kind])
    at = slice(None) if chance.random() < 0.3 else chance.randrange(len(values))
    with np.errstate(all="ignore"):
        values[at] = value if values.dtype.kind == "T" else np.asarray(value).astype(values.dtype)
    replace(run / f"{chosen}/c.0", b"".join(encode_chunk(array, values)))
    return f"{chosen}[{at}] is {value!r:.30}"


def column_out_of_range(run: Path, chance: random.Random) -> str:
    """A value next to the range of a column that has one, well encoded."""
    metadata = {path: stored(run, path)[1] for path in arrays(run)}
    ranged = {path: array for path in metadata if (array := describe_array(path, metadata)).limits is not None}
    chosen = chance.choice([path for path in ranged if (run / path / "c.0").exists()])
    values = ranged[chosen].decode(0, (run / chosen / "c.0").read_bytes()).copy()
    low, high = ranged[chosen].limits or (0, 0)
    value = chance.choice([np.nan, np.inf] if values.dtype.kind == "f" else [low - 1, *([high + 1] * (high < 2**31))])
    values[chance.randrange(len(values))] = np.asarray(value).astype(values.dtype)
    replace(run / f"{chosen}/c.0", b"".join(encode_chunk(ranged[chosen], values)))
    return f"an entry of {chosen} is {value!r}"


def row_block(run: Path, chance: random.Random) -> str:
    """A row of one number, well encoded."""
    file = chance.choice([file for file in chunks(run) if file.name.endswith(".0.0") and file.parent.name != "digest"])
    path = file.parent.relative_to(run).as_posix()
    array, _ = stored(run, path)
    row = int(file.name.split(".")[1])
    values = array.decode(row, file.read_bytes()).copy()
    value = chance.choice(NUMBERS[values.dtype.kind])
    with np.errstate(all="ignore"):
        values[...] = np.asarray(value).astype(values.dtype)
    replace(file, b"".join(encode_chunk(array, values)))
    return f"row {row} of {path} is all {value!r}"


def text_chunk(run: Path, chance: random.Random) -> str:
    """A chunk of text that unpacks to much, announces much, or isn't text."""
    file = chance.choice([run / path / "c.0" for path in arrays(run) if stored(run, path)[0].dtype.kind == "T"])
    body = numcodecs.blosc.decompress(file.read_bytes()[:-4])
    description, forged = chance.choice(
        (
            ("unpacks to 2 GB", 2**31 - 2**20),
            ("unpacks to 250 MB", 250 * 2**20),
            ("announces 2^31 texts", packed(struct.pack("<I", 2**31) + body[4:])),
            ("announces a text of 4 GB", packed(body[:4] + b"\xff" * 4 + body[8:])),
            ("isn't UTF-8", packed(equal_texts(body, b"\xff\xfe"))),
            ("holds half characters", packed(equal_texts(body, b"\xed\xa0\x80"))),
            ("holds nothing", packed(b"")),
        )
    )
    replace(file, with_checksum(bomb(body[:4], forged) if isinstance(forged, int) else forged))
    return f"{file.parent.relative_to(run)} {description}"


def blosc_header(run: Path, chance: random.Random) -> str:
    file = chance.choice(chunks(run))
    content = bytearray(file.read_bytes()[:-4])
    at = chance.randrange(16)
    size = chance.choice((1, 4))
    content[at : at + size] = chance.choice((b"\xff" * 4, b"\0" * 4, chance.randbytes(4)))[:size]
    replace(file, with_checksum(bytes(content[: max(len(content), 16)])))
    return f"header of {file.relative_to(run)} lies at byte {at}"


def shard_index(run: Path, chance: random.Random) -> str:
    file = chance.choice(sorted(run.glob("adapters/*/factor/c.*")))
    content = file.read_bytes()
    entry = [chance.choice((0, 1, len(content), 2**40, 2**63, 2**64 - 1, chance.randrange(10**4))) for _ in range(2)]
    replace(file, content[:-20] + with_checksum(struct.pack("<QQ", *entry)))
    return f"index of {file.relative_to(run)} points to {entry}"


def damaged_chunk(run: Path, chance: random.Random) -> str:
    file, other = chance.choice(chunks(run)), chance.choice(chunks(run))
    content = file.read_bytes()
    description, forged = chance.choice(
        (
            ("empty", b""),
            ("truncated", content[: chance.randrange(len(content))]),
            ("extended", content + bytes(chance.choice((1, 2**20, 2**26)))),
            (f"swapped with {other.relative_to(run)}", other.read_bytes()),
        )
    )
    replace(file, forged)
    return f"{file.relative_to(run)} is {description}"


def special_file(run: Path, chance: random.Random) -> str:
    """Something that is no regular file, or one without end, in the place of a chunk, metadata or the root."""
    metadata = [run / path / "zarr.json" for path in arrays(run)]
    file = chance.choice((run / "zarr.json", chance.choice(metadata), *chance.choices(chunks(run), k=3)))
    kind = chance.choice(sorted(SPECIAL))
    file.unlink(missing_ok=True)
    SPECIAL[kind](file)
    return f"{file.relative_to(run)} is {kind}"


def sparse(file: Path) -> None:
    file.touch()
    os.truncate(file, 40 * 10**9)


def listen(file: Path) -> None:
    here = os.getcwd()
    os.chdir(file.parent)  # a socket's name is short
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(file.name)
    os.chdir(here)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a named pipe": os.mkfifo,
    "a folder": os.mkdir,
    "a socket": listen,
    "a link to /dev/zero": lambda file: file.symlink_to("/dev/zero"),
    "a link to nowhere": lambda file: file.symlink_to("nowhere"),
    "a link to itself": lambda file: file.symlink_to(file.name),
    "40 GB of nothing": sparse,
    "empty": Path.touch,
    "gone": lambda file: None,
}


def strange_digest(run: Path, chance: random.Random) -> str:
    folder = run / "rows/digest"
    names = ("c.0.0", "c.99999999999.0", "c.-1.0", "c.1e3.0", "c.\u0663.0", "c.00.0", "c.0.0.0", "c.0", f"c.{10**30}.0")
    name, own = chance.choice(names), (folder / "c.0.0").read_bytes()
    content = chance.choice((own, own, *(with_checksum(bytes(size)) for size in (0, 31, 64, 2**20))))
    replace(folder / name, content)
    return f"digest {name!a} is {'that of all rows' if content == own else f'of {len(content)} bytes'}"


def many_files(run: Path) -> str:
    folder = run / "states"
    for index in range(10**6):
        os.close(os.open(folder / str(index), os.O_CREAT | os.O_WRONLY))
    return "a million files in states"


def strange_json(run: Path, chance: random.Random) -> str:
    """JSON that is none, or of another kind, in the place of metadata."""
    file = chance.choice((run / "zarr.json", chance.choice([run / path / "zarr.json" for path in arrays(run)])))
    whole = file.read_text()
    description, forged = chance.choice(
        (
            ("a number", "1"),
            ("a list", "[]"),
            ("an array", '{"zarr_format": 3, "node_type": "array", "shape": [1]}'),
            ("nested", "[" * 100_000 + "]" * 100_000),
            ("nested in itself", '{"a":' * 100_000 + "1" + "}" * 100_000),
            ("of two keys", '{"attributes": 1, "shape": 1, ' + whole[1:]),
            ("two documents", whole + whole),
            ("half", whole[: len(whole) // 2]),
            ("a long number", whole.replace("3", "3" * 10_000, 1)),
            ("half a character", whole.replace('"group"', '"\\ud800"').replace('"array"', '"\\ud800"')),
            ("in UTF-16", whole.encode("utf-16").decode("latin-1")),
            ("padded to 60 MB", whole + " " * (60 * 2**20)),
        )
    )
    replace(file, forged.encode("latin-1" if description == "in UTF-16" else "utf-8"))
    return f"{file.relative_to(run)} is {description}"


FORGED: list[Mutation] = [root_attribute] * 3 + [adapters, token_axis] + [node_field] * 3 + [consolidated] * 2
FORGED += [table_column, column_out_of_range] * 2 + [row_block, text_chunk, text_chunk]
FORGED += [blosc_header, shard_index, damaged_chunk]
BROKEN: list[Mutation] = [special_file] * 5 + [strange_digest] * 2 + [strange_json] * 3


def seal(sound: Path, run: Path, chance: random.Random) -> str:
    """Recompute every digest over what was forged."""
    once, rows, nodes = [], {}, []
    for file in sorted(file for file in sound.rglob("*") if file.is_file()):
        name = file.relative_to(sound).as_posix()
        path = file.parent.relative_to(sound).as_posix()
        content = (run / name).read_bytes()
        part = (name, chunk_digest(FORMAT_VERSION, content))
        if file.name == "zarr.json":
            nodes += [(name, hashlib.sha256(content).digest())] if path != "." else []
        elif path not in DIGEST_ARRAYS and by_row(sound, path):
            rows.setdefault(int(file.name.split(".")[1]), []).append(part)
        elif path not in DIGEST_ARRAYS:
            once.append(part)
    array, _ = stored(sound, DIGESTS)
    digests = {row: combine_digests(rows[row]) for row in sorted(rows)}
    block = np.frombuffer(b"".join(digests.values()), np.uint8).reshape(-1, 32)
    replace(run / array.key(0), b"".join(encode_chunk(array, block)))
    fresh = {"static_digest": combine_digests(once).hex(), "metadata_digest": combine_digests(nodes).hex()}
    fresh["rows_digest"] = combine_row_digests(digests)
    root = json.loads((run / "zarr.json").read_bytes())
    root["attributes"].update(fresh)
    with suppress(ValueError):  # a provenance has no NaN
        root["attributes"] = with_fingerprint(root["attributes"])
    write_document(open_place(run), root)  # under the digest of the root itself
    return "sealed"


def by_row(sound: Path, path: str) -> bool:
    return bool(json.loads((sound / path / "zarr.json").read_bytes())["attributes"]["written"] == "by row")


def arrays(run: Path) -> list[str]:
    """Paths of the arrays, as they are before a special file is put in the place of one."""
    nodes = sorted(file.parent for file in run.rglob("zarr.json") if file.is_file() and file.parent != run)
    return [node.relative_to(run).as_posix() for node in nodes if any(node.glob("c.*"))]


def chunks(run: Path) -> list[Path]:
    """A chunk of each array, so that the many of states don't hide the others."""
    there = (sorted(file for file in (run / path).glob("c.*") if file.is_file()) for path in arrays(run))
    return [files[0] for files in there if files]


def stored(run: Path, path: str) -> tuple[StoredArray, ArrayV3Metadata]:
    metadata = ArrayV3Metadata.from_dict(json.loads((run / path / "zarr.json").read_bytes()))
    return StoredArray.from_metadata(path, metadata), metadata


def change_root(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    root = json.loads((run / "zarr.json").read_bytes())
    change(root)
    put_json(run / "zarr.json", root)


def change_nodes(run: Path, change: Callable[[str, dict[str, Any]], None]) -> None:
    """Change each array's metadata, its own and the consolidated ones alike."""
    nodes = {path: json.loads((run / path / "zarr.json").read_bytes()) for path in arrays(run)}
    for path, node in nodes.items():
        change(path, node)
        put_json(run / path / "zarr.json", node)
    change_root(run, lambda root: root["consolidated_metadata"]["metadata"].update(nodes))


def put_json(file: Path, value: Any) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    replace(file, json.dumps(value, indent=2).replace(json.dumps(DEEP), deep).encode())


def replace(file: Path, content: bytes) -> None:
    """Put content in a file's place; the old file, which the sound run shares, stays as it is."""
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def with_checksum(content: bytes) -> bytes:
    return content + struct.pack("<I", google_crc32c.value(content))


def packed(body: bytes) -> bytes:
    return bytes(numcodecs.blosc.compress(body, b"zstd", 1, 0, typesize=1))


def equal_texts(body: bytes, octets: bytes) -> bytes:
    """As many texts as there are, each of these bytes."""
    return body[:4] + (struct.pack("<I", len(octets)) + octets) * int.from_bytes(body[:4], "little")


@cache
def bomb(start: bytes, n_bytes: int) -> bytes:
    """A small chunk that unpacks to `n_bytes` bytes."""
    body = np.zeros(n_bytes, np.uint8)
    body[: len(start)] = np.frombuffer(start, np.uint8)
    return packed(body)
