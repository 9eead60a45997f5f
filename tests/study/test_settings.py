"""Settings that a study's file may have, and errors of wrong ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorascope.cli.main import main
from lorascope.study.settings import REFUSED_IN_CAPTURE, Articles, read_settings

Write = Callable[[dict[str, Any]], Path]


def test_one_value_is_a_list_of_one_and_places_come_from_the_file(
    write: Write, content: dict[str, Any], tmp_path: Path
) -> None:
    settings = read_settings(write(content))
    assert settings.model == ("llama",)
    assert settings.grid[0].share == (1,)
    assert settings.tasks["facts"].train == ("facts.train.jsonl",)
    assert settings.results == tmp_path / "study" / "results"
    assert settings.work == tmp_path / "study" / "work"
    content |= {"out": "there", "work": "elsewhere"}
    settings = read_settings(write(content))
    assert (settings.results, settings.work) == (tmp_path / "there/results", tmp_path / "elsewhere")


def test_articles_of_a_text(write: Write, content: dict[str, Any]) -> None:
    content["tasks"]["facts"]["train"] = {"data": "wiki.txt", "articles": [1, 6]}
    assert read_settings(write(content)).tasks["facts"].train == (Articles(data="wiki.txt", articles=(1, 6)),)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"ranks": 4}, "`ranks` is no setting of a study; see docs/studies.md"),
    "no grid": ({"grid": []}, "`grid` is []"),
    "no rank": ({"grid": [{"share": 2}]}, "`grid.0.rank`: field required"),
    "not a number": ({"grid": [{"rank": "eight"}]}, "`grid.0.rank.0` is 'eight'"),
    "a word of several": ({"states": "some"}, "`states` is 'some': input should be 'all', 'sample' or 'none'"),
    "share": ({"grid": [{"rank": 2, "share": 3}]}, "`grid` has share 3; give divisors of `shared_layers` 4"),
    "task": ({"grid": [{"rank": 2, "tasks": "maths"}]}, "`grid` names the task 'maths'; there are facts"),
    "decide here": ({"capture": {"prompt": "main"}}, "`capture` has 'prompt', which the study itself decides"),
    "rank of training": ({"training": {"rank": 4}}, "`training` has 'rank', which belongs into `grid`"),
    "no number": ({"grid": [{"rank": True}]}, "true and false (in YAML also yes, no, on, off) are no values here"),
    "prompt twice": (
        {"tasks": {"facts": {"train": "a.jsonl", "test": "b.jsonl", "prompts": ["main", "main"]}}},
        "`prompts` names 'main' twice",
    ),
    "estimates of nothing": (
        {"information": {"where": {"rank": [2, 64]}}},
        "`information.where` has rank 64, which no unit has; there are 2, 4",
    ),
    "estimates of words": ({"information": {"where": {"rank": "2"}}}, "has rank '2', which no unit has"),
    "place": ({"folder": "."}, "`folder` is no setting"),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_is_one_line_that_names_place_and_value(
    write: Write, content: dict[str, Any], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = MISTAKES[name]
    path = write(content | change)
    assert main(["study", "status", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert str(path) in error


@pytest.mark.parametrize("name", list(REFUSED_IN_CAPTURE))
def test_settings_of_capture_that_would_bend_a_study(write: Write, content: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"`capture` has '{name}', {REFUSED_IN_CAPTURE[name]}"):
        read_settings(write(content | {"capture": {name: 1}}))


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "model: m\ngrid: {rank: 2}\ntraining: {learning_rate: 5e-4, epochs: 1.5, dropout: 1E-1}\n"
        "tasks: {t: {train: a-e5.jsonl, test: 'b.jsonl'}}\n"
    )
    settings = read_settings(path)
    assert settings.training == {"learning_rate": 5e-4, "epochs": 1.5, "dropout": 0.1}
    assert settings.tasks["t"].train == ("a-e5.jsonl",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: a\nmodel: b", "line 2: 'model' stands there twice"),
        ("grid: {rank: 2, rank: 4}", "'rank' stands"),
        ("grid: [", "isn't YAML"),
        ("- 1", "holds no settings"),
        ("!!python/object:os.system {}", "isn't YAML"),
    ],
)
def test_what_is_no_study(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_settings(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no study's file"):
        read_settings(tmp_path / "study.yaml")
    with pytest.raises(ValueError, match="is a folder"):
        read_settings(tmp_path)
