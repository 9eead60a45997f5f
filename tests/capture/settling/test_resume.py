"""What differs between two captures, in words."""

import pytest

from lorascope.capture.settling.resume import differences, require_same
from lorascope.stores import StoreError

IDENTITY = {"model": {"sha256": "ab"}, "settings": {"tokens": "all", "data_limit": None, "adapter": ("one",)}}


def test_nothing_differs() -> None:
    # As it comes back from JSON: tuples are lists there.
    stored = {"model": {"sha256": "ab"}, "settings": {"tokens": "all", "data_limit": None, "adapter": ["one"]}}
    assert not list(differences(stored, IDENTITY))
    require_same(stored, IDENTITY, "run")


def test_each_difference_is_named() -> None:
    stored = {"model": {"sha256": "cd"}, "settings": {"tokens": "all", "adapter": ["one"]}, "old": 1}
    assert list(differences(stored, IDENTITY)) == [
        "model.sha256: 'cd' -> 'ab'",
        "old: 1 -> nothing",
        "settings.data_limit: nothing -> None",
    ]


def test_a_changed_capture_is_refused() -> None:
    with pytest.raises(StoreError, match=r"^`run` is another: model.sha256: 'cd' -> 'ab'; repeat the comm"):
        require_same({**IDENTITY, "model": {"sha256": "cd"}}, IDENTITY, "`run` is another")
    with pytest.raises(StoreError, match="; give the same$"):
        require_same({**IDENTITY, "model": {"sha256": "cd"}}, IDENTITY, "`run` is another", "give the same")


def test_many_differences_are_counted_and_long_values_cut() -> None:
    stored = {str(i): "x" * 100 for i in range(9)}
    with pytest.raises(StoreError, match=r"0: 'x{35}\.\.\.' -> 1;.*, and 3 more; repeat"):
        require_same(stored, {str(i): 1 for i in range(9)}, "run")
