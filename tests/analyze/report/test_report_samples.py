"""What a page holds for its script: every sample's tokens, and js by token and component as small codes."""

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorascope.analyze.miub.qualify import qualify
from lorascope.analyze.report import page as page_module
from lorascope.analyze.report import token_data as data_module
from lorascope.analyze.report import tokens as tokens_module
from lorascope.analyze.report.sections import components, headline
from lorascope.analyze.report.token_data import as_script, codes, largest, lowest, token_data
from lorascope.analyze.report.token_texts import legend
from lorascope.stores import open_run
from lorascope.stores.format.tables import ROLES

from ..conftest import Small
from .test_report import page_of, section

STEP = 10 ** (6 / 2 / 253) - 1
"""Half of a step of 253 over six powers of ten, which is more than a small run has."""


def decoded(values: np.ndarray, low: Any, top: Any) -> np.ndarray:
    """What report.js makes of codes of one byte."""
    with np.errstate(divide="ignore"):
        found = low * (top / low) ** ((values - 1.0) / 253)
    return np.where(values == 0, 0.0, np.where(values == 255, np.nan, found))


def unpacked(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


@given(st.floats(1e-11, 1.0), st.floats(1e-30, 1e3))
def test_a_code_is_off_by_half_a_step_at_most(share: float, top: float) -> None:
    values = np.array([share * top, top, share**0.5 * top])
    low = lowest(values)
    found = decoded(codes(values, low, top, np.uint8), low, top)
    np.testing.assert_allclose(found, values, rtol=1.01 * (share ** (-0.5 / 253) - 1) + 1e-9)  # half of its own steps


def test_codes_of_zero_nothing_and_the_ends() -> None:
    values = np.array([0.0, np.nan, 1e-15, 1e-12, 1.0])
    low = lowest(values)
    assert (low, largest(values)) == (1e-12, 1.0)
    assert codes(values, low, 1.0, np.uint8).tolist() == [0, 255, 1, 1, 254]
    assert codes(values, low, 1.0, np.uint16).tolist() == [0, 65535, 1, 1, 65534]
    for flat in (np.zeros(2), np.array([np.nan, 0.0]), np.full(2, 3.0), np.empty(0)):
        found = decoded(codes(flat, lowest(flat), largest(flat), np.uint8), lowest(flat), largest(flat))
        np.testing.assert_array_equal(found, flat)


def test_all_samples_and_components_ride_along(small: Small) -> None:
    data = token_data(small.run, qualify(small.run), 10**6)
    js, starts, stops = small.js(), small.starts, small.run.samples["token_stop"].values
    order = np.argsort(-small.by_sample(js).sum(axis=1))
    assert [sample["place"] for sample in data["samples"]] == order.tolist()
    at = np.concatenate([np.arange(starts[k], stops[k]) for k in order])
    assert np.concatenate(data["texts"]).tolist() == [" word"] * len(at)
    assert unpacked(data["position"], "<u4").tolist() == small.run.tokens["position"].values[at].tolist()
    assert [ROLES[role] for role in unpacked(data["role"], "u1")] == [
        ROLES[role] for role in small.run.tokens["role"].values[at]
    ]
    nll = unpacked(data["nll"], "<u2") / 1000
    np.testing.assert_allclose(nll, small.run.tokens["nll"].values[at], atol=6e-4)
    whole = unpacked(data["js"], "<u2")
    total = data["js_low"] * (data["js_top"] / data["js_low"]) ** ((whole - 1.0) / 65533)
    np.testing.assert_allclose(total, js[at].sum(axis=1), rtol=1e-3)
    values = unpacked(data["values"], "u1").reshape(6, -1)
    for column, (component, found) in enumerate(zip(data["components"], values, strict=True)):
        assert component["path"] == small.run.component_paths[column]
        np.testing.assert_allclose(decoded(found, component["low"], component["top"]), js[at, column], rtol=STEP)


@pytest.mark.parametrize(
    ("room", "n_shown", "n_carrying", "words"),
    [
        (60_000, 12, 12, "All 12 samples can be searched, sorted and looked at by component."),
        (30_000, 12, 6, "12 of 12 samples can be searched and sorted, 6 of them looked at by component: as many"),
        (27_000, 12, 4, "12 of 12 samples can be searched and sorted, 4 of them looked at"),
        (18_000, 12, 0, "12 of 12 samples can be searched and sorted, 0 of them looked at"),
        (10_000, 6, 0, "6 of 12 samples can be searched and sorted, 0 of them looked at"),
        (1_700, 1, 0, "1 of 12 samples can be searched and sorted, 0 of them looked at"),
        (0, 0, 0, "of 8 MB has no room to search others."),
    ],
)
def test_what_has_no_room_is_left_out_at_even_steps(
    small: Small, monkeypatch: pytest.MonkeyPatch, room: int, n_shown: int, n_carrying: int, words: str
) -> None:
    qualified = qualify(small.run).isel(component=np.tile(np.arange(6), 20))  # many enough to take most of the room
    data = token_data(small.run, qualified, room)
    ranked = np.argsort(-small.by_sample(small.js()).sum(axis=1))
    shown = [sample["place"] for sample in data["samples"]]
    assert (len(shown), sum(sample["carries"] for sample in data["samples"])) == (n_shown, n_carrying)
    assert shown == (ranked[:: 12 // n_shown].tolist() if n_shown else [])
    assert len(as_script(data).encode()) <= max(room, 1000)
    monkeypatch.setattr(tokens_module, "sample_block", lambda *sample: "")
    assert words in tokens_module.token_texts(small.run, qualified, room)


def test_a_cell_of_several_components_says_what_it_shows(small: Small) -> None:
    qualified = qualify(small.run)
    said = ("the cells add up to MIUB", "a cell that several share has their mean")
    for result, expected in ((qualified, said[0]), (qualified.isel(component=[0, 1, 1]), said[1])):
        page = components(result)
        assert [one in page for one in said] == [one == expected for one in said]


def test_a_page_is_cut_to_its_size(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = page_of(small.run, tmp_path)
    most = len(whole.source.encode()) - 2000
    monkeypatch.setattr(page_module, "MOST_BYTES", most)
    page = page_of(small.run, tmp_path)
    assert len(page.source.encode()) <= most
    assert 0 < len(page.samples["samples"]) < len(whole.samples["samples"]) == 12


def test_of_a_long_sample_the_first_tokens_are_kept(
    make_small: Callable[..., Small], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_module, "KEPT_TOKENS", 3)
    small = make_small()
    data = token_data(small.run, qualify(small.run), 10**6)
    assert {len(texts) for texts in data["texts"]} == {3}
    captured = {sample["place"]: sample["captured"] for sample in data["samples"]}
    assert captured == dict(enumerate((small.run.samples["token_stop"].values - small.starts).tolist()))
    assert len(unpacked(data["values"], "u1")) == 6 * 3 * 12


def test_values_that_arent_finite_are_shown_last(make_small: Callable[..., Small]) -> None:
    run = make_small(not_finite=True).run
    data = token_data(run, qualify(run), 10**6)
    assert data["samples"][-1]["miub"] is None
    assert 255 in unpacked(data["values"], "u1")
    assert all(sample["miub"] is not None for sample in data["samples"][:-1])


def test_a_chat_says_who_speaks(make_small: Callable[..., Small], tmp_path: Path) -> None:
    small = make_small(is_text=True, chat=True)
    page = page_of(small.run, tmp_path)
    texts = section(page, "texts")
    assert re.findall(r'<span class="role">(\w+)</span>', texts.split("<article")[1])[:3] == [
        "system",
        "user",
        "assistant",
    ]
    roles = [str(attrs["title"]).partition(", ")[2].partition(":")[0] for attrs in page.with_class("t")]
    marked = [str(attrs["class"]).removeprefix("t").strip() for attrs in page.with_class("t")]
    assert set(zip(roles, marked, strict=True)) == {
        ("system", ""), ("template", "template"), ("user", ""), ("assistant", "answer")
    }  # fmt: skip
    assert "<u>underlined</u>: assistant" in texts
    assert "who speaks" in texts
    assert "the chat template&#x27;s" in texts.replace("'", "&#x27;")


def test_the_legend_names_what_is_underlined(small: Small, make_small: Callable[..., Small]) -> None:
    assert "<u>underlined</u>: answer" in legend(small.run, 1.0)
    assert "underlined" not in legend(make_small(is_text=True).run, 1.0)


def test_where_all_tokens_were_captured_none_is_said_to_be_missing(small: Small) -> None:
    run = open_run(small.run.path)
    assert "weren't captured" in legend(run, 1.0)
    run.samples = run.samples.assign(length=run.samples["length"] - 2)
    assert "weren't captured" not in legend(run, 1.0)
    assert f"All {run.n_tokens} tokens of 12 samples" in headline(run, qualify(run))
