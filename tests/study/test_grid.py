"""Units of a grid."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorascope.study.grid import grid_units, select_units
from lorascope.study.settings import read_settings

Write = Callable[[dict[str, Any]], Path]


def names(path: Path) -> list[str]:
    return [unit.name for unit in grid_units(read_settings(path))]


def test_parts_are_products_and_their_union_is_the_grid(write: Write, content: dict[str, Any]) -> None:
    content["grid"] = [{"rank": [2, 8]}, {"share": [1, 4], "rank": 8, "seed": [0, 1]}]
    assert names(write(content)) == [
        "share1-r2-s0-facts",
        "share1-r8-s0-facts",
        "share1-r8-s1-facts",
        "share4-r8-s0-facts",
        "share4-r8-s1-facts",
    ]


def test_tasks_items_and_models_stand_in_names_where_they_differ(write: Write, content: dict[str, Any]) -> None:
    content["tasks"]["text"] = {"train": "a.txt", "test": "b.txt"}
    content |= {"model": ["org/one-1.5", "two"], "grid": [{"rank": 2, "train_items": [4, 8], "tasks": "facts"}]}
    content["grid"].append({"rank": 2, "model": "two", "tasks": "text"})
    assert names(write(content)) == [
        "one-1.5-share1-r2-s0-d4-facts",
        "one-1.5-share1-r2-s0-d8-facts",
        "two-share1-r2-s0-d4-facts",
        "two-share1-r2-s0-d8-facts",
        "two-share1-r2-s0-text",
    ]


def test_units_that_would_share_a_file_are_refused(write: Write, content: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="of 'a/one' and task 'facts' of 'b/one' both make a unit 'one-share1-"):
        names(write(content | {"model": ["a/one", "b/one"]}))
    tasks = {"x": content["tasks"]["facts"], "d8-x": content["tasks"]["facts"]}
    content |= {
        "tasks": tasks,
        "grid": [{"rank": 2, "tasks": "x", "train_items": [8, 9]}, {"rank": 2, "tasks": "d8-x"}],
    }
    with pytest.raises(ValueError, match="task 'x' of 'llama' and task 'd8-x' of 'llama' both make a unit"):
        names(write(content))
    content |= {"tasks": {"x": tasks["x"], "X": tasks["x"]}, "grid": [{"rank": 2}]}
    with pytest.raises(ValueError, match="both make a unit 'share1-r2-s0-[xX]'"):  # on Windows and macOS one file
        names(write(content))


def test_names_are_those_that_a_report_takes(write: Write, content: dict[str, Any]) -> None:
    content |= {"model": ["modèle d'été", "autre"], "grid": [{"rank": 2}, {"rank": 2, "train_items": 4}]}
    unit_names = names(write(content))
    assert unit_names[:2] == ["mod-le-d--t--share1-r2-s0-d8-facts", "mod-le-d--t--share1-r2-s0-d4-facts"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in unit_names)
    del content["tasks"]["facts"]["train_items"]
    assert "autre-share1-r2-s0-dall-facts" in names(write(content))
    content["tasks"] = {"x" * 200: content["tasks"]["facts"]}
    with pytest.raises(ValueError, match="has 2.. letters; give its model or task a shorter name"):
        names(write(content))


def test_only_takes_every_nth_and_all_parts_are_all_units(write: Write, content: dict[str, Any]) -> None:
    content["grid"] = [{"rank": list(range(1, 8))}]
    units = grid_units(read_settings(write(content)))
    parts = [select_units(units, f"{i}/3") for i in (1, 2, 3)]
    assert [len(part) for part in parts] == [3, 2, 2]
    assert sorted(unit.rank for part in parts for unit in part) == list(range(1, 8))
    assert select_units(units, None) == units


@pytest.mark.parametrize("only", ["0/3", "4/3", "1", "1/", "a/b", "-1/3", "1/3/5"])
def test_only_that_is_no_part(write: Write, content: dict[str, Any], only: str) -> None:
    units = grid_units(read_settings(write(content)))
    with pytest.raises(ValueError, match=f"`only` is '{only}'; give i/n"):
        select_units(units, only)
