"""A few tokens at many components: the same numbers as the lazy arrays', each state read once."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.stores import StoreError, open_run
from lorascope.stores.places.folder import FolderPlace

F32, BF16, F16 = COMPONENTS = tuple(f"model.layers.{i}.mlp.up_proj" for i in range(3))
TOKENS = [2100, 3, 1024, 3, 1023, 0, 2147]


def assert_is(tree: xr.DataTree, run: Any, tokens: Any, adapter: str | None = None) -> None:
    """Base bit for bit; delta except for its last bits, since its product has other shapes."""
    for component, node in tree.children.items():
        np.testing.assert_array_equal(node["base"].values, run.base(component)[tokens].values)
        expected = run.delta(component, adapter)[tokens].values
        np.testing.assert_allclose(node["delta"].values, expected, rtol=1e-5, atol=1e-6)
        assert {array.dtype for array in node.data_vars.values()} == {np.dtype(np.float32)}
        assert {array.dims for array in node.data_vars.values()} == {("token", "feature")}


@pytest.mark.parametrize(
    ("options", "adapter"),
    [
        ({}, None),
        ({"biased": (True, False, False)}, None),
        ({"codec": "raw"}, None),
        ({"stream": "pair"}, None),
        ({"stream": "base", "adapters": ("a", "b")}, "a"),
        ({"stream": "base", "adapters": ("a", "b")}, "b"),
    ],
    ids=["default", "biased", "raw", "pair", "a", "b"],
)
def test_they_are_those_of_the_lazy_arrays(make_run: Any, options: dict[str, Any], adapter: str | None) -> None:
    run = open_run(make_run(**options).path)
    tree = run.take(TOKENS, adapter=adapter)
    assert tuple(tree.children) == COMPONENTS
    assert tree[F32]["base"]["token"].values.tolist() == TOKENS
    assert_is(tree, run, TOKENS, adapter)
    if run.stream == "pair":  # no product, so delta too bit for bit
        np.testing.assert_array_equal(tree[BF16]["delta"].values, run.delta(BF16)[TOKENS].values)
    assert run.take([], adapter=adapter)[BF16]["delta"].shape == (0, 20)
    assert tuple(run.take([5], component=[F16, F32], adapter=adapter).children) == (F32, F16)
    assert tuple(run.take([5], component="*.1.*", adapter=adapter).children) == (BF16,)


@pytest.mark.parametrize("tokens", [TOKENS, tuple(TOKENS), np.array(TOKENS, np.uint16), xr.DataArray(TOKENS), range(5)])
def test_any_sequence_of_integers_is_taken(make_run: Any, tokens: Any) -> None:
    run = open_run(make_run().path)
    assert_is(run.take(tokens, component=[BF16]), run, list(np.asarray(tokens)))


@pytest.mark.parametrize("name", ["token", "feature", "base", "delta"])
def test_components_may_have_any_name(make_run: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    run = open_run(make_run().path)
    base, delta = run.base_rows(F32), run.delta_arrays(F32)
    monkeypatch.setattr(run, "base_rows", lambda path: base)
    monkeypatch.setattr(run, "delta_arrays", lambda path, adapter: delta)
    monkeypatch.setattr(run, "component_paths", (name, F16, F32))
    tree = run.take(TOKENS, component=[name, F16])
    assert tuple(tree.children) == (name, F16)
    np.testing.assert_array_equal(tree[name]["base"].values, base[TOKENS])
    assert tree[name].dataset["token"].values.tolist() == tree[F16].dataset["token"].values.tolist() == TOKENS


def test_component_that_the_adapter_leaves_alone_has_no_delta(make_run: Any) -> None:
    run = open_run(make_run().path)
    ranks = xr.Dataset(
        {
            "rank": ("component", [2, 0, 4]),
            "factor_start": ("component", [0, -1, -1]),
            "scaling": ("component", [1.0] * 3),
        }
    )
    run.adapter = lambda name=None: ranks  # type: ignore[method-assign]
    tree = run.take([1])
    assert [tuple(node.data_vars) for node in tree.children.values()] == [
        ("base", "delta"),
        ("base",),
        ("base", "delta"),
    ]


def test_tokens_that_are_not_there_are_nan(make_run: Any) -> None:
    run = make_run(rows=(0, 2))
    (run.path / f"states/{F32}/base/c.1.0").write_bytes(b"never committed")
    opened = open_run(run.path)
    tree = opened.take(TOKENS)
    assert_is(tree, opened, TOKENS)
    for component in COMPONENTS:
        for name in ("base", "delta"):
            assert np.isnan(tree[component][name].values).all(axis=1).tolist() == [t == 1024 for t in TOKENS]
    part = open_run(make_run("part.zarr", states="sample", state_rows=(False, True, False)).path)
    assert np.isnan(part.take(TOKENS)[F16]["delta"].values).any(axis=1).tolist() == [t != 1024 for t in TOKENS]


def test_what_is_no_token_is_refused(make_run: Any) -> None:
    run = open_run(make_run().path)
    cases: tuple[tuple[Any, type[Exception], str], ...] = (
        ([-1], IndexError, "`tokens` holds -1; this run's tokens are 0 to 2147"),
        ([0, 2148], IndexError, "`tokens` holds 2148; this run's tokens are 0 to 2147"),
        (5, ValueError, r"`tokens` is int64 of shape \(\); it must be a sequence of integers"),
        ([[1]], ValueError, r"of shape \(1, 1\)"),
        ([1.0], ValueError, "`tokens` is float64"),
        (np.ones(2148, bool), ValueError, r"`tokens` is bool of shape .* \(of a mask, take `numpy.flatnonzero`"),
    )
    for tokens, kind, words in cases:
        with pytest.raises(kind, match=words):
            run.take(tokens)


def test_other_mistakes_are_refused(make_run: Any) -> None:
    run = open_run(make_run().path)
    with pytest.raises(StoreError, match="`adapter` isn't given"):
        open_run(make_run("two.zarr", stream="base", adapters=("a", "b")).path).take([1])
    with pytest.raises(StoreError, match="'x' fits none of the 3 components of this run; the first is"):
        run.take([1], component=["x"])
    with pytest.raises(StoreError, match="captured with states 'none': it keeps no states"):
        open_run(make_run("none.zarr", states="none").path).take([1])


@pytest.mark.parametrize("codec", ["default", "zstd", "raw"])
@pytest.mark.parametrize("path", [f"states/{BF16}/base", "adapters/default/factor", f"adapters/default/lora_B/{F32}"])
def test_a_bit_anywhere_in_a_chunk_is_never_read_over(make_run: Any, codec: str, path: str) -> None:
    """Also far from the tokens that are taken."""
    run = make_run(codec=codec)
    file = run.path / path / "c.0.0"
    content = file.read_bytes()
    opened = open_run(run.path)
    for place in (*range(40), *range(40, len(content) - 40, 997), *range(max(len(content) - 40, 0), len(content))):
        if place < len(content):
            broken = bytearray(content)
            broken[place] ^= 1 << place % 8
            file.write_bytes(broken)
            with pytest.raises(StoreError, match=f"chunk '{path}/c.0.0' is broken"):
                opened.take([7])
    file.write_bytes(b"")
    with pytest.raises(StoreError, match=f"chunk '{path}/c.0.0' is empty"):
        opened.take([7])
    file.unlink()
    with pytest.raises(StoreError, match=f"chunk '{path}/c.0.0' is missing"):
        opened.take([7])


def test_each_state_is_read_once(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(make_run(factored=(True, True, True)).path)
    run.take([0])  # tables are read once and kept
    asked: Counter[str] = Counter()

    def count(name: str) -> None:
        plain = getattr(FolderPlace, name)

        def counted(self: FolderPlace, key: str, *rest: int, at_most: int) -> bytes:
            asked[key] += 1
            content: bytes = plain(self, key, *rest, at_most=at_most)
            return content

        monkeypatch.setattr(FolderPlace, name, counted)

    count("read")
    count("read_part")
    run.take([5, 2, 1030, 1040])
    bases = {f"states/{component}/base/c.{row}.0": 1 for component in COMPONENTS for row in (0, 1)}
    weights = {f"adapters/default/lora_B/{component}/c.0.0": 1 for component in COMPONENTS}
    factors = {f"adapters/default/factor/c.{row}.0": 1 for row in (0, 1)}  # all columns are in one inner chunk
    assert asked == {**bases, **weights, **factors}
