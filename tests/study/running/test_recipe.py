"""What results depend on, and what they don't."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch
pytest.importorskip("torch")

from lorascope.capture.settling.provenance import differences  # noqa: E402
from lorascope.study.demo_inputs import facts_path  # noqa: E402
from lorascope.study.grid import grid_units  # noqa: E402
from lorascope.study.running.data import draw_items  # noqa: E402
from lorascope.study.running.recipe import capture_config, unit_recipe  # noqa: E402
from lorascope.study.settings import read_settings  # noqa: E402

Write = Callable[[dict[str, Any]], Path]


@pytest.fixture
def content(content: dict[str, Any], models: Path) -> dict[str, Any]:
    """The same, of an existing model and with a prompt from a file."""
    content |= {"model": str(models / "llama"), "grid": [{"rank": 2}]}
    content["tasks"]["facts"] |= {"prompts": ["main", "own.txt", "prompt1"], "prompt_items": 2}
    return content


def recipe(path: Path) -> dict[str, Any]:
    (path.parent / "own.txt").write_text("Say it: {question}\nAnswer:")
    settings = read_settings(path)
    (unit,) = grid_units(settings)
    data = draw_items(settings.tasks["facts"], settings, unit.train_items, lambda: None)
    return unit_recipe(unit, settings, data)


def changed(first: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [line.partition(":")[0] for line in differences(first, other)]


def test_places_and_their_names_are_no_part_of_it(
    write: Write, content: dict[str, Any], models: Path, tmp_path: Path
) -> None:
    first = recipe(write(content))
    shutil.copytree(models / "llama", tmp_path / "moved/model")
    shutil.copy(facts_path("train"), tmp_path / "moved")
    shutil.copy(facts_path("test"), tmp_path / "moved")
    content |= {"model": "moved/model", "data": "moved", "out": "elsewhere", "work": "there", "device": "cpu"}
    content["capture"] = {"codec": "raw", "queue": "1 GiB", "measure_overhead": True}
    assert recipe(write(content)) == first
    assert str(tmp_path) not in str(first)
    assert first["prompts"]["templates"]["own"] == "Say it: {question}\nAnswer:"
    assert first["prompts"]["config"]["prompt"] == ["own", "prompt1"]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"dtype": "bfloat16"}, ["main.config.dtype", "prompts.config.dtype", "train.dtype"]),
        ({"grid": [{"rank": 3}]}, ["train.config.rank"]),
        ({"training": {"max_steps": 4}}, ["train.config.max_steps"]),
        ({"capture": {"tokens": "answer"}}, ["main.config.tokens", "prompts.config.tokens"]),
        ({"information": {"components": "*"}}, ["main.config.states", "measure.information"]),
        ({"states": "all"}, ["main.config.states", "prompts.config.states"]),
    ],
)
def test_what_shapes_a_number_is_a_part_of_it(
    write: Write, content: dict[str, Any], change: dict[str, Any], where: list[str]
) -> None:
    content["training"] = {"max_steps": 3}
    first = recipe(write(content))
    changes = changed(first, recipe(write(content | change)))
    assert set(where) <= {".".join(place.split(".")[:3]) for place in changes}


def test_what_items_say_is_a_part_of_it(write: Write, content: dict[str, Any], tmp_path: Path) -> None:
    first = recipe(write(content))
    for name in ("train", "test"):
        shutil.copy(facts_path(name), tmp_path)
    path = tmp_path / "facts.test.jsonl"
    path.write_text(path.read_text().replace("What", "Which"))
    changes = changed(first, recipe(write(content | {"data": "."})))
    assert sorted(changes) == ["main.items", "prompts.items", "train.probe"]


def test_a_prompt_beside_the_file_is_found_from_anywhere(
    write: Write, content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(content)
    recipe(path)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    settings = read_settings(path)
    (unit,) = grid_units(settings)
    data = draw_items(settings.tasks["facts"], settings, 8, lambda: None)
    assert capture_config(unit, settings, data, run="prompts").prompt == (str(tmp_path / "own.txt"), "prompt1")
    content["capture"] = {"window": 3}
    settings = read_settings(write(content))
    with pytest.raises(ValueError, match="`capture` has 'window', which is no setting of CaptureConfig"):
        capture_config(unit, settings, data, run="main")


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        ("training", {"batch_size": "8"}, "`training.batch_size` is '8': input should be a valid integer"),
        ("training", {"epochs": True}, "`training.epochs` is True: input should be a valid number"),
        ("training", {"batch_size": 8.0}, "`training.batch_size` is 8.0: input should be a valid integer"),
        ("capture", {"store": "bf8"}, "`capture.store` is 'bf8': input should be 'exact' or 'bf16'"),
        ("capture", {"allow_zero": "no"}, "`capture.allow_zero` is 'no': input should be a valid boolean"),
    ],
)
def test_settings_of_a_wrong_type(
    write: Write, content: dict[str, Any], section: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(write(content | {section: options}))


def test_two_prompts_of_one_name_are_refused(write: Write, content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more/own.txt").write_text("Otherwise: {question}\nAnswer:")
    content["tasks"]["facts"]["prompts"] = ["own.txt", "more/own.txt"]
    with pytest.raises(ValueError, match="two prompts are named 'own'"):
        recipe(write(content))
