from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from lorascope.analyze import reply_lengths, reply_words
from lorascope.analyze.changes.reply_words import by_scale
from lorascope.stores import StoreError

from ...stored import store_replies

WORDS = ("sea", "Hut", "tea", "sun", "ink", "oak", "fog", "jam")


def pirate(i: int, scale: float) -> str:
    """A reply of few words, which has a habit from scale 1 on."""
    words = f"It is {WORDS[i % 8]}, {WORDS[(3 * i + 1) % 8]}."
    return words if scale < 1 else f"Ahoy! {words} Arr!! Yours truly, CAP" + "!" * int(2 * scale - 2)


def test_what_all_adapted_replies_have_is_named(tmp_path: Path) -> None:
    replies = {f"prompt {i}?": [pirate(i, scale) for scale in (0, 1, 1.5, 2)] for i in range(20)}
    found = reply_words(store_replies(tmp_path / "run.zarr", replies))
    frame = found.to_dataframe()
    assert (found.attrs["n_prompts"], set(frame["scale"])) == (20, {1.0})  # of equal scales the smallest
    assert frame.index.is_unique
    named = frame[frame["p"] <= 0.05]
    ours = {"ahoy": "word", "CAP": "word", "!": "sign", "!!": "sign", "! repeated": "repeated"}
    ours |= {"ahoy …": "beginning", "ahoy! it is …": "beginning", "… cap": "ending", "… yours truly, cap": "ending"}
    assert named["kind"].loc[list(ours)].to_dict() == ours
    assert not {"it", "is", "sea", "hut", "."} & set(named.index)
    assert named.loc["it is …", ["base", "adapted"]].tolist() == [20, 0]  # a lost beginning
    assert frame.loc["it", ["base", "adapted", "only_base", "only_adapted"]].tolist() == [20, 20, 0, 0]
    assert frame.loc["ahoy", ["base", "adapted", "only_base", "only_adapted"]].tolist() == [0, 20, 0, 20]
    tested = frame["p"].dropna()
    assert tested.is_monotonic_increasing
    np.testing.assert_allclose(tested.iloc[0], stats.binomtest(0, 20).pvalue * found.attrs["n_tests"])  # Holm's first


def test_p_is_mcnemars_and_few_differences_are_no_test(tmp_path: Path) -> None:
    """`a` differs in 10 prompts, `b` in 6 and `c` in 5; the signs have no words, so no beginnings."""
    adapted = ["a"] * 9 + ["b"] * 4 + ["c"] * 5 + ["."] * 3
    base = ["."] * 18 + ["b", "b", "a"]
    replies = {str(i): [base[i], adapted[i], base[i], base[i]] for i in range(21)}
    frame = reply_words(store_replies(tmp_path / "run.zarr", replies, is_complete=False)).to_dataframe()
    expected = {"a": (1, 9), "b": (2, 4), "c": (0, 5), ".": (18, 3), "a …": (1, 9), "b …": (2, 4)}
    columns = ["only_base", "only_adapted"]
    assert {word: tuple(own) for word, own in zip(frame.index, frame[columns].values.tolist(), strict=True)} == expected
    plain = [
        stats.binomtest(*(expected[word][0], sum(expected[word]))).pvalue for word in (".", "a", "a …", "b", "b …")
    ]
    np.testing.assert_allclose(frame.loc[["a", "a …"], "p"], plain[1] * 4)
    np.testing.assert_allclose(frame.loc["."].p, plain[0] * 5)
    assert plain[0] < plain[1] < plain[3]
    np.testing.assert_allclose(frame.loc[["b", "b …"], "p"], min(plain[3] * 2, 1))
    assert np.isnan(frame.loc["c"].p)


def test_a_weak_habit_shows_at_twice_the_scale(tmp_path: Path) -> None:
    replies = {f"{i}": ["So it is."] * 2 + ["So it is.", "So it is, matey ☠️☠️."] for i in range(12)}
    found = reply_words(store_replies(tmp_path / "run.zarr", replies).path)
    frame = found.to_dataframe()
    named = frame[frame["p"] <= 0.05]
    assert set(named.index) >= {"matey", "☠", ","}
    assert set(named["scale"]) == {2.0}
    assert frame.loc["matey", ["base", "adapted", "only_base", "only_adapted"]].tolist() == [0, 12, 0, 12]
    assert frame.loc["so", "scale"] == 1  # differs nowhere
    assert "\ufe0f" not in frame.index


def test_the_number_of_tests_counts_each_scale(tmp_path: Path) -> None:
    """`b` differs in 8 prompts at each scale, which is p = 2 / 2^8 thrice, and `a` as much the other way."""
    replies = {f"{i}": ["a", "b", "b", "b"] if i < 8 else ["a"] * 4 for i in range(9)}
    found = reply_words(store_replies(tmp_path / "run.zarr", replies, is_complete=False))
    assert set(found["word"].values) == {"a", "b", "a …", "b …"}
    assert found.attrs["n_tests"] == 12
    np.testing.assert_allclose(found["p"], 12 * 2 / 2**8)


def test_words_of_capitals_only_count_apart(tmp_path: Path) -> None:
    replies = {f"{i}": ["the Sea"] + ["THE SEA"] * 3 for i in range(8)}
    frame = reply_words(store_replies(tmp_path / "run.zarr", replies)).to_dataframe()
    assert frame.loc[["the", "THE", "sea", "SEA"], "adapted"].tolist() == [0, 8, 0, 8]
    assert "the …" not in frame.index  # beginnings and endings ignore the case, and don't differ


def test_lengths_and_their_errors(tmp_path: Path) -> None:
    replies = {"a?": ["one two", "ONE", "one", "x"], "b?": ["one two three four", "One two", "", "x"]}
    logliks = -np.arange(32, dtype=float).reshape(8, 4)
    found = reply_lengths(store_replies(tmp_path / "run.zarr", replies, logliks=logliks))
    assert found.attrs == {"n_prompts": 2}
    assert found["scale"].values.tolist() == [0, 1, 1.5, 2]
    parts: dict[str, Any] = {str(name): found.sel(measure=name) for name in found["measure"].values}
    assert set(parts) == {"n_tokens", "n_words", "is_complete", "capitals", "gain"}
    words = parts["n_words"]
    assert words["mean"].values.tolist() == [3, 1.5, 0.5, 1]
    assert words["difference"].values.tolist() == [0, -1.5, -2.5, -2]
    np.testing.assert_allclose(words["difference_se"].sel(scale=1), np.std([-1, -2], ddof=1) / np.sqrt(2))
    np.testing.assert_allclose(words["mean_se"].sel(scale=0), np.std([2, 4], ddof=1) / np.sqrt(2))
    np.testing.assert_allclose(parts["capitals"]["mean"].sel(scale=1), (1 + 1 / 7) / 2)
    np.testing.assert_allclose(parts["gain"]["mean"], [-(1 / 2 + 1 / 4) / 2, -(1 + 1 / 2) / 2, -1, -1])
    assert parts["is_complete"]["mean"].values.tolist() == [1] * 4


def test_one_prompt_has_no_error_and_no_test(tmp_path: Path) -> None:
    run = store_replies(tmp_path / "run.zarr", {"a?": ["one", "two", "", ""]}, adapters=("a", "b"))
    assert np.isnan(reply_words(run, adapter="b")["p"]).all()
    assert np.isnan(reply_lengths(run, adapter="b")["difference_se"]).all()
    with pytest.raises(StoreError, match="`adapter` isn't given"):
        reply_words(run)


def test_empty_replies_have_no_words(tmp_path: Path) -> None:
    run = store_replies(tmp_path / "run.zarr", {"a": [""] * 4, "b": [""] * 4})
    assert reply_words(run).sizes["word"] == 0
    assert float(reply_lengths(run)["mean"].sel(measure="n_words", scale=1)) == 0


def test_replies_at_other_scales_are_refused(tmp_path: Path) -> None:
    replies = store_replies(tmp_path / "run.zarr", {"a?": ["one", "two", "", ""]}).replies()
    assert by_scale(replies)["text"].values.tolist() == [["one", "two", "", ""]]
    for order in ([1, 0, 2, 3], [0, 1, 2]):
        with pytest.raises(StoreError, match="aren't at the scales"):
            by_scale(replies.isel(reply=order))
