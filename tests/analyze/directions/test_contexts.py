from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lorascope.analyze import contexts, directions
from lorascope.stores import Adapter, Component, RunSpec, StoreError, create_run, open_run

from ...stored import sample_tables
from ..conftest import Small

WORDS = tuple(f" w{i}" for i in range(97))


@pytest.fixture(scope="module")
def small(make_small: Callable[..., Small]) -> Small:
    return make_small(word=WORDS)


def test_text_runs_on_through_a_sample_and_no_further(small: Small) -> None:
    run, texts = small.run, small.run.tokens["text"].values
    top = directions(run, run.component_paths[0])["top_token"]
    found = contexts(run, top, width=3)
    assert found.sizes == top.sizes
    for place, token in np.ndenumerate(top.values):
        sample = int(run.tokens["sample"][token])
        start, stop = (int(run.samples[f"token_{end}"][sample]) for end in ("start", "stop"))
        assert found["before"].values[place] == "".join(texts[max(start, token - 3) : token])
        assert found["text"].values[place] == texts[token]
        assert found["after"].values[place] == "".join(texts[token + 1 : min(stop, token + 4)])


def test_where_there_is_no_token_there_is_no_text(small: Small) -> None:
    found = contexts(small.run, [[-1, 0]])
    assert [found[name].values[0, 0] for name in found] == ["", "", ""]
    assert found["text"].values[0, 1] == " w0"
    assert contexts(small.run, np.empty((0, 3), int))["text"].shape == (0, 3)
    for token in (-2, small.run.n_tokens):
        with pytest.raises(IndexError, match=rf"holds {token}; this run's tokens are 0 to {small.run.n_tokens - 1}"):
            contexts(small.run, [token])


def test_without_text_ids_stand_for_it(make_small: Callable[..., Small]) -> None:
    some = make_small(token_text=False).run
    found = contexts(some, [1], width=1)
    assert [found[name].item() for name in ("before", "text", "after")] == ["100 ", "101 ", "102 "]


@pytest.fixture
def long_run(tmp_path: Path) -> Path:
    """A run without captured rows: 70,000 tokens of one sample, with gaps in a third."""
    n = 70_000
    part = Component(path="a", kind="a", layer=0, d_in=2, d_out=2, dtype="float32", stored_dtype="float32")
    adapter = Adapter(name="b", rank=(1,), scaling=(1.0,), factored=(False,))
    spec = RunSpec(
        stream="adapted", components=(part,), adapters=(adapter,), n_tokens=n, n_samples=1, n_choices=0, attributes={}
    )
    tables = sample_tables([n], ["d"])
    tables["tokens"] |= {"position": np.arange(n) // 2 * 3 + np.arange(n) % 2, "text": [f" {i}" for i in range(n)]}
    with create_run(tmp_path / "run.zarr", spec, tables=tables, weights={}):
        pass
    return tmp_path / "run.zarr"


def test_an_ellipsis_stands_for_tokens_that_were_not_captured(long_run: Path) -> None:
    found = contexts(long_run, [2, 3], width=2)
    assert list(zip(*(found[name].values for name in ("before", "text", "after")), strict=True)) == [
        (" 0 1…", " 2", " 3… 4"),
        (" 1… 2", " 3", "… 4 5"),
    ]


def test_only_chunks_that_hold_some_are_read(long_run: Path) -> None:
    run = open_run(long_run)
    contexts(run, [66_000])  # compares the tables with their digest, once
    (long_run / "tokens/text/c.0").unlink()
    assert contexts(run, [66_000], width=1)["text"].item() == " 66000"
    with pytest.raises(StoreError, match=r"chunk 'tokens/text/c.0' is missing"):
        contexts(run, [65_537])
