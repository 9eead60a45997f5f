"""Rows that decode and carry a right digest, and yet stand beside the wrong tokens: only their numbers tell."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from blake3 import blake3

from lorascope.stores import Adapter, Component, RunSpec, create_run, verify
from lorascope.stores.checking import align
from lorascope.stores.checking.align import PrefixKeys

from ...stored import sample_tables

N_TOKENS = 2600
WIDTHS = (24, 32, 16)
KINDS = ("q_proj", "down_proj", "up_proj")
PATHS = tuple(f"model.layers.{i}.{kind}" for i, kind in zip((0, 0, 1), KINDS, strict=True))
FIRST, DEEP = (f"states/{PATHS[i]}/base" for i in (0, 2))
FACTOR = "adapters/default/factor"


def toy_texts(rng: np.random.Generator) -> list[np.ndarray]:
    """Samples of Zipf's law that begin with one instruction, one of them there twice, until all tokens are used."""
    instruction = rng.integers(200, size=25)
    texts, n_left = [], N_TOKENS
    while n_left:
        text = np.concatenate([instruction, np.minimum(rng.zipf(1.3, size=rng.integers(40, 160)), 199)])
        texts.append((texts[2] if len(texts) == 5 else text)[:n_left])
        n_left -= len(texts[-1])
    return texts


def toy_values(texts: list[np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The first component follows from the token, the others from all tokens up to it; batches add some noise."""
    embedding, mix = rng.normal(size=(200, 24)), rng.normal(size=(24, 24)) / 5
    heads = [rng.normal(size=(24, width)) for width in WIDTHS]
    inputs, states = [], []
    for text in texts:
        state = np.zeros(24)
        for token in text:
            state = np.tanh(state @ mix + embedding[token])
            inputs.append(embedding[token])
            states.append(state)
    x, h = np.array(inputs), np.array(states)
    noise = 1 + rng.normal(size=(len(x), 1)) * 2e-3
    values = {f"states/{PATHS[i]}/base": ((x, h, h)[i] @ heads[i]) * noise for i in range(3)}
    values[FACTOR] = np.concatenate([x[:, :2], h[:, :3]], axis=1)
    values[f"adapters/default/delta/{PATHS[2]}"] = h @ heads[2] / 9
    values["adapters/default/js"] = np.abs(h[:, :3]) / 9
    values["adapters/default/swallowed"] = np.zeros((len(x), 3))
    begins = np.cumsum([0, *map(len, texts)])[:-1]
    values["tokens/nll"] = 3 + 2 * h[:, 0]
    values["tokens/nll"][begins] = np.nan
    return {path: block.astype(np.float32) for path, block in values.items()}


def write_toy(
    root: Path, *, rows: tuple[int, ...] = (0, 1, 2), model: str = "LlamaForCausalLM", **options: Any
) -> Path:
    """A run of three rows whose numbers are like a model's."""
    rng = np.random.default_rng(3)
    texts = toy_texts(rng)
    values = toy_values(texts, rng) | options
    n, lengths = len(texts), [len(text) for text in texts]
    components = tuple(
        Component(
            path=path,
            kind=kind,
            layer=int(path.split(".")[2]),
            d_in=24,
            d_out=width,
            dtype="float32",
            stored_dtype="float32",
        )
        for path, kind, width in zip(PATHS, KINDS, WIDTHS, strict=True)
    )
    spec = RunSpec(
        stream="adapted",
        components=components,
        adapters=(Adapter(name="default", rank=(2, 3, 4), scaling=(1.0,) * 3, factored=(True, True, False)),),
        n_tokens=N_TOKENS,
        n_samples=n,
        n_choices=0,
        token_text=False,
        attributes={"fingerprint": "f", "provenance": {"model": {"class": model}}},
    )
    tables = sample_tables(lengths, ["d"] * n)
    tables["tokens"]["token_id"] = np.concatenate(texts)
    weights = {
        f"adapters/default/lora_B/{path}": rng.normal(size=(width, rank)).astype(np.float32)
        for path, width, rank in zip(PATHS[:2], WIDTHS, (2, 3), strict=False)
    }
    with create_run(root, spec, tables=tables, weights=weights) as writer:
        for row in rows:
            writer.write_row(row, {path: values[path][writer.row_tokens(row)] for path in writer.row_arrays(row)})
        if len(rows) == 3:
            writer.finish({})
    return root


def corrupt(root: Path, row: int, path: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change a block with Zarr alone, and make the row's digest fit it."""
    tokens = slice(row * 1024, min((row + 1) * 1024, N_TOKENS))
    with zarr.config.set({"array.write_empty_chunks": True}):
        array = zarr.open_array(root / path, mode="r+")
        array[tokens] = change(np.asarray(array[tokens]))
        digest = hashlib.sha256()
        for key in sorted(f.relative_to(root).as_posix() for f in root.rglob(f"c.{row}*") if by_row(f)):
            digest.update(key.encode() + b"\n" + blake3((root / key).read_bytes()).digest() + b"\n")
        zarr.open_array(root / "rows/digest", mode="r+")[row] = np.frombuffer(digest.digest(), np.uint8)


def by_row(file: Path) -> bool:
    written: str = json.loads((file.parent / "zarr.json").read_text())["attributes"]["written"]
    return written == "by row"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy") / "toy.zarr")


@pytest.fixture
def toy(honest: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return shutil.copytree(honest, tmp_path / "toy.zarr")


def found(root: Path) -> list[tuple[str, str]]:
    """(place, kind) of every problem; the bytes themselves are beyond reproach."""
    assert verify(root, level="decode").ok
    return [(problem.place, problem.kind) for problem in verify(root).problems]


def test_honest_run_raises_nothing_and_says_how_much_was_compared(toy: Path) -> None:
    verdict = verify(toy)
    assert verdict.problems == ()
    assert verdict.n_pairs > 25 * 15


@pytest.mark.parametrize("rows", [(0,), (0, 2), (2,)])
def test_honest_unfinished_run_raises_nothing(tmp_path: Path, rows: tuple[int, ...]) -> None:
    assert found(write_toy(tmp_path / "toy.zarr", rows=rows)) == []


@pytest.mark.parametrize("shift", [-3, 1])
@pytest.mark.parametrize("path", [FIRST, FACTOR])
def test_shifted_row_of_the_first_layer_is_measured(toy: Path, path: str, shift: int) -> None:
    corrupt(toy, 1, path, lambda block: np.roll(block, -shift, axis=0))
    problems = [p for p in verify(toy).problems if p.place == "row 1" and p.kind == "shifted"]
    side = "after" if shift > 0 else "before"
    assert any(f"those of the tokens {abs(shift)} places {side} them" in p.message for p in problems)
    assert any(repr(path).strip("'") in p.message for p in problems)


@pytest.mark.parametrize(
    ("path", "shift"),
    [
        (DEEP, -1),
        (DEEP, 7),
        (FACTOR, 1),
        ("tokens/nll", 1),
        ("adapters/default/js", 7),
        (f"adapters/default/delta/{PATHS[2]}", -1),
    ],
)
def test_shifted_row_disagrees_with_tokens_after_the_same_sequence(toy: Path, path: str, shift: int) -> None:
    def roll(block: np.ndarray) -> np.ndarray:
        moved = np.roll(block, -shift, axis=0)
        if path == "tokens/nll":  # NaN stays where it may be
            moved = np.where(np.isnan(block), np.nan, np.where(np.isnan(moved), np.float32(3), moved))
        return moved

    corrupt(toy, 1, path, roll)
    messages = [p.message for p in verify(toy).problems if p.kind == "shifted"]
    assert any(m.startswith(f"'{path}': ") and "pairs of tokens after the same sequence differ" in m for m in messages)
    assert all(path in m for m in messages)


def test_every_row_shifted_alike_is_found(toy: Path) -> None:
    for row in range(3):
        for path in (FIRST, DEEP):
            corrupt(toy, row, path, lambda block: np.roll(block, -1, axis=0))
    assert {kind for _, kind in found(toy)} == {"shifted"}


def test_sample_that_stands_twice_must_agree_wherever_it_stands(toy: Path) -> None:
    """The copy's own tokens, beyond the instruction that all samples share: noise of its size would be a third."""

    def exchange(block: np.ndarray) -> np.ndarray:
        block[600:640] = block[640:680].copy()
        return block

    corrupt(toy, 0, DEEP, exchange)
    assert found(toy)


def test_blank_row_is_one_problem(toy: Path) -> None:
    whole = {path: np.asarray(zarr.open_array(toy / path, mode="r")[2048:]) for path in (FIRST, DEEP, FACTOR)}
    for path, value, message in (
        (FIRST, np.nan, "row 2 is blank, all NaN"),
        (FIRST, 0.0, "row 2 is blank, all zero"),
        (DEEP, 3.0, "row 2 is blank, one value in all features of a token"),
        (FACTOR, np.nan, "row 2 is blank, all NaN"),
    ):
        corrupt(toy, 2, path, lambda block, value=value: np.full_like(block, value))
        assert [(p.place, p.message) for p in verify(toy).problems] == [(f"{path}/c.2.0", f"'{path}/c.2.0': {message}")]
        corrupt(toy, 2, path, lambda block, path=path: whole[path])


def test_what_is_left_over_from_the_row_before_is_found(toy: Path) -> None:
    """A buffer that was used again and not wholly filled; and a short row, filled like a long one."""
    before = [np.asarray(zarr.open_array(toy / DEEP, mode="r")[start : start + 1024]) for start in (0, 1024)]

    def leave(block: np.ndarray) -> np.ndarray:
        block[700:720] = before[0][700:720]
        return block

    corrupt(toy, 2, DEEP, lambda block: before[1][: len(block)])
    corrupt(toy, 1, DEEP, leave)
    assert {(f"{DEEP}/c.1.0", "repeated"), (f"{DEEP}/c.2.0", "repeated")} <= set(found(toy))


def test_model_that_looks_ahead_is_not_accused(tmp_path: Path) -> None:
    """An encoder: equal beginnings, other vectors. Without a causal model's name most pairs would have to agree."""
    rng = np.random.default_rng(0)
    ahead = {DEEP: rng.normal(size=(N_TOKENS, 16)).astype(np.float32)}
    ahead[f"states/{PATHS[1]}/base"] = rng.normal(size=(N_TOKENS, 32)).astype(np.float32)
    assert found(write_toy(tmp_path / "encoder.zarr", model="BertModel", **ahead)) == []
    assert (DEEP, "shifted") in found(write_toy(tmp_path / "causal.zarr", **ahead))


def test_without_a_model_class_the_numbers_say_whether_it_is_causal(tmp_path: Path) -> None:
    root = write_toy(tmp_path / "toy.zarr", model="")
    assert found(root) == []
    corrupt(root, 1, DEEP, lambda block: np.roll(block, -1, axis=0))
    assert {kind for _, kind in found(root)} == {"shifted"}


def test_prefix_keys_go_across_rows_and_stop_at_gaps() -> None:
    sample = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2])
    position = np.array([0, 1, 2, 0, 1, 3, 4, 5, 6])
    token_id = np.array([7, 8, 9, 7, 8, 9, 9, 7, 8])
    whole = PrefixKeys().row(sample, position, token_id)
    assert whole[1].tolist() == [True, True, True, True, True, False, False, False, False]
    assert whole[0][0] == whole[0][3]
    assert whole[0][1] == whole[0][4]
    assert len(set(whole[0][[0, 1, 2]].tolist())) == 3
    for cut in range(1, 9):
        keys = PrefixKeys()
        parts = [keys.row(sample[s], position[s], token_id[s]) for s in (slice(cut), slice(cut, None))]
        np.testing.assert_array_equal(np.concatenate([key for key, _ in parts]), whole[0])
        np.testing.assert_array_equal(np.concatenate([known for _, known in parts]), whole[1])


def test_what_is_kept_between_rows_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(align, "MAX_KEPT", 10)
    check, rng, sizes = align.PrefixCheck("ForCausalLM"), np.random.default_rng(0), []
    for row in range(40):
        key = rng.integers(400, size=100).astype(np.uint64)  # most are seen again, and what follows from them agrees
        block = np.sin(key[:, None] * np.arange(1, 9)).astype(np.float32)
        check.add(row, {"states/a/base": align.sketch(block, 0.05)}, key, np.ones(100, bool))
        sizes.append(len(check._keys))
    assert max(sizes) <= 10 + 100
    assert check.n_pairs > 500
    assert list(check.problems()) == []


def test_vectors_that_are_not_finite_are_left_to_others() -> None:
    block = np.ones((50, 8), np.float32)
    block[3], block[4] = np.nan, np.inf
    assert np.isnan(align.sketch(block, 0.05).values[[3, 4]]).all()
    check = align.PrefixCheck("ForCausalLM")
    for values in (block, np.full_like(block, np.nan)):
        check.add(0, {"a": align.sketch(values, 0.05)}, np.arange(50, dtype=np.uint64), np.ones(50, bool))
    assert (check.n_pairs, list(check.problems())) == (0, [])
