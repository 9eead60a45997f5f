"""Adapters that somebody made to break their reader: each a change to the folder of a sound one.

Sound is an adapter of rank 4 for a model whose layers `LAYER` names are among.
"""

import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
FOR_EVER = "(([a-z._0-9])+)+$x"

Change = Callable[[Path], object]


def settings(**changes: Any) -> Change:
    """Other settings in the configuration."""

    def change(folder: Path) -> None:
        path = folder / CONFIG
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def config(text: str | bytes) -> Change:
    """Another text in place of the configuration."""
    content = text if isinstance(text, bytes) else text.encode()
    return lambda folder: (folder / CONFIG).write_bytes(content)


def inserted(text: str) -> Change:
    """A text right behind the configuration's first brace."""

    def change(folder: Path) -> None:
        path = folder / CONFIG
        path.write_text("{" + text + "," + path.read_text().lstrip()[1:])

    return change


def replaced(name: str, make: Change) -> Change:
    """Something else in place of a file; `make` gets its path."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def link(target: str) -> Change:
    return lambda path: path.symlink_to(target)


def listen(path: Path) -> None:
    """A socket; its name may be longer than the system takes for one."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def hole(path: Path) -> None:
    """40 GB of nothing."""
    with path.open("wb") as file:
        file.truncate(40 * 10**9)


def split(file: Path) -> tuple[dict[str, Any], bytes]:
    """Header and numbers of a file of safetensors."""
    content = file.read_bytes()
    stop = 8 + struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8:stop]), content[stop:]


def join(file: Path, header: str, numbers: bytes, announced: int | None = None) -> None:
    n_bytes = len(header.encode()) if announced is None else announced
    file.write_bytes(struct.pack("<Q", n_bytes) + header.encode() + numbers)


def header(change_header: Callable[[dict[str, Any]], Any], numbers: bytes | None = None) -> Change:
    """Another header of the weights; their numbers stay."""

    def change(folder: Path) -> None:
        facts, held = split(folder / WEIGHTS)
        facts.pop("__metadata__", None)
        changed = change_header(facts)
        text = changed if isinstance(changed, str) else json.dumps(changed)
        join(folder / WEIGHTS, text, held if numbers is None else numbers)

    return change


def cut(n_bytes: int) -> Change:
    return lambda folder: os.truncate(folder / WEIGHTS, n_bytes)


def announced(n_bytes: int) -> Change:
    return lambda folder: join(folder / WEIGHTS, "{}", bytes(100), n_bytes)


def tensor(facts: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """The header with one tensor described otherwise."""
    name = f"{LAYER}.lora_A.weight"
    return {**facts, name: {**facts[name], **changes}}


def spoilt(value: float) -> Change:
    """One weight that is no number."""

    def change(folder: Path) -> None:
        facts, numbers = split(folder / WEIGHTS)
        start = facts[f"{LAYER}.lora_A.weight"]["data_offsets"][0]
        join(folder / WEIGHTS, json.dumps(facts), numbers[:start] + struct.pack("<f", value) + numbers[start + 4 :])

    return change


def renamed(old: str, new: str) -> Change:
    return header(lambda facts: {key.replace(old, new): value for key, value in facts.items()})


def enormous(folder: Path) -> None:
    """A sparse factor of 40 GB, which takes no room on the disk."""
    facts = {
        f"{LAYER}.lora_A.weight": {"dtype": "F32", "shape": [4, 25 * 10**8], "data_offsets": [0, 4 * 10**10]},
        f"{LAYER}.lora_B.weight": {"dtype": "F32", "shape": [32, 4], "data_offsets": [4 * 10**10, 4 * 10**10 + 512]},
    }
    join(folder / WEIGHTS, json.dumps(facts), b"")
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) + 4 * 10**10 + 512)


def many(folder: Path) -> None:
    """A million tensors without numbers."""
    empty = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    join(folder / WEIGHTS, "{" + ",".join(f'"{i}":{empty}' for i in range(10**6)) + "}", b"")


HOSTILE: dict[str, Change] = {
    "config-empty": config(""),
    "config-cut": config('{"peft_type": "LO'),
    "config-null": config("null"),
    "config-list": config("[]"),
    "config-no-text": config(b"\xff\xfe\x00"),
    "config-deep-lists": config("[" * 200_000),
    "config-deep-objects": inserted('"x":' + '{"a":' * 100_000 + "1" + "}" * 100_000),
    "config-half-a-character": settings(base_model_name_or_path="\ud83d"),
    "config-long-number": inserted('"x":' + "9" * 100_000),
    "config-key-twice": inserted('"r":4000000000'),
    "config-40-mb": inserted('"x":"' + "y" * 40_000_000 + '"'),
    "config-million-lists": inserted('"x":[' + "[]," * 2_000_000 + "[]]"),
    "config-fifo": replaced(CONFIG, os.mkfifo),
    "config-zeros": replaced(CONFIG, link("/dev/zero")),
    "config-terminal": replaced(CONFIG, link("/dev/tty")),
    "config-folder": replaced(CONFIG, Path.mkdir),
    "config-nowhere": replaced(CONFIG, link("nowhere")),
    "config-circle": replaced(CONFIG, link(CONFIG)),
    "config-socket": replaced(CONFIG, listen),
    "config-hole": replaced(CONFIG, hole),
    "type-other": settings(peft_type="IA3"),
    "type-object": settings(peft_type={"LORA": 1}),
    "rank-31": settings(r=2**31),
    "rank-60": settings(r=10**18),
    "rank-infinite": settings(rank_pattern={"q_proj": float("inf")}),
    "rank-text": settings(r="8"),
    "rank-true": settings(r=True),
    "rank-none": settings(r=None),
    "rank-zero": settings(r=0),
    "rank-negative": settings(rank_pattern={"q_proj": -1}),
    "rank-in-pattern": settings(rank_pattern={"q_proj": 2**31}),
    "rank-list": settings(rank_pattern=[8]),
    "alpha-text": settings(lora_alpha="8"),
    "alpha-infinite": settings(lora_alpha=float("inf")),
    "alpha-400": settings(alpha_pattern={"q_proj": 10**400}),
    "pattern-targets": settings(target_modules=FOR_EVER),
    "pattern-excluded": settings(exclude_modules=FOR_EVER),
    "pattern-rank": settings(rank_pattern={"((.*[.])*.*)*x": 4}),
    "pattern-alpha": settings(alpha_pattern={"(.*)*(.*)*X": 4}),
    "pattern-saved": settings(modules_to_save=["(.+)+x"]),
    "pattern-layers": settings(layers_pattern=[FOR_EVER], layers_to_transform=[0]),
    "pattern-many-stars": settings(target_modules=".*" * 12 + "x"),
    "pattern-choices": settings(target_modules="(m|.|o|d)?" * 25 + "x"),
    "pattern-behind": settings(target_modules=r"(.+)+\1+x"),
    "pattern-ahead": settings(target_modules=r"(?!(.+)+,).*q_proj"),
    "pattern-open": settings(target_modules="(["),
    "pattern-deep": settings(target_modules="(" * 2000 + ")" * 2000),
    "pattern-repeats": settings(target_modules="(((.{100}){100}){100}){100}"),
    "pattern-too-many-repeats": settings(target_modules=".{99999999999}"),
    "pattern-long": settings(target_modules="q_proj|" * 100_000),
    "patterns-many": settings(rank_pattern={f"q_proj.{i}": 4 for i in range(300_000)}),
    "targets-many": settings(target_modules=[f"x{i}" for i in range(1_000_000)]),
    "targets-number": settings(target_modules=7),
    "layers-many": settings(layers_to_transform=[*range(1_000_000)], target_modules=["q_proj"]),
    "layers-twice": settings(layer_replication=[[0, 2]] * 10_000),
    "tokens-beyond": settings(trainable_token_indices=[10**12]),
    "dropout": settings(lora_dropout=1e9),
    "init-pissa": settings(init_lora_weights="pissa_niter_999999999"),
    "init-loftq": settings(init_lora_weights="loftq", loftq_config={"loftq_bits": 4, "loftq_iter": 10**9}),
    "escape-in-a-name": settings(base_model_name_or_path="\x1b[2Jmodel", unknown="\x1b[31m"),
    "weights-empty": cut(0),
    "weights-cut-in-length": cut(4),
    "weights-cut-in-header": cut(100),
    "weights-cut": cut(5000),
    "weights-60": announced(2**60),
    "weights-64": announced(2**64 - 1),
    "weights-beyond": announced(1000),
    "weights-no-json": header(lambda facts: "{" * 100),
    "weights-deep": header(lambda facts: "[" * 200_000),
    "weights-list": header(lambda facts: "[]"),
    "weights-of-lists": header(lambda facts: {key: [1] for key in facts}),
    "weights-key-twice": header(lambda facts: json.dumps(facts)[:-1] + "," + json.dumps(facts)[1:]),
    "weights-offsets-beyond": header(lambda facts: tensor(facts, data_offsets=[0, 2**62])),
    "weights-offsets-negative": header(lambda facts: tensor(facts, data_offsets=[-8, 504])),
    "weights-offsets-shared": header(lambda facts: {key: {**v, "data_offsets": [0, 512]} for key, v in facts.items()}),
    "weights-type": header(lambda facts: tensor(facts, dtype="F7")),
    "weights-integers": header(lambda facts: tensor(facts, dtype="I32")),
    "weights-8-bit": header(lambda facts: tensor(facts, dtype="F8_E4M3", shape=[4, 128])),
    "weights-shape-negative": header(lambda facts: tensor(facts, shape=[-4, -32])),
    "weights-shape-enormous": header(lambda facts: tensor(facts, shape=[2**40, 2**40])),
    "weights-shape-other": header(lambda facts: tensor(facts, shape=[32, 4])),
    "weights-shape-flat": header(lambda facts: tensor(facts, shape=[128])),
    "weights-million": many,
    "weights-40-gb": enormous,
    "weights-hole": replaced(WEIGHTS, hole),
    "weights-fifo": replaced(WEIGHTS, os.mkfifo),
    "weights-zeros": replaced(WEIGHTS, link("/dev/zero")),
    "weights-folder": replaced(WEIGHTS, Path.mkdir),
    "weights-nowhere": replaced(WEIGHTS, link("nowhere")),
    "weights-pickled": replaced(WEIGHTS, lambda path: (path.parent / "adapter_model.bin").touch()),
    "weights-nan": spoilt(float("nan")),
    "weights-infinite": spoilt(float("-inf")),
    "weights-unknown-layer": renamed("q_proj", "q" * 300),
    "weights-two-names": renamed(f"{LAYER}.lora_A.", f"{LAYER}.base_layer.lora_B."),
    "weights-several": renamed(f"{LAYER}.lora_A.weight", f"{LAYER}.lora_A.mine.weight"),
}
"""What is done to the folder of a sound adapter, by name."""
