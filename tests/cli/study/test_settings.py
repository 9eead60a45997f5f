"""What a study's file may say, and what is said of one that is wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorascope.cli.main import main
from lorascope.cli.study.settings import Articles, read_settings

Write = Callable[[dict[str, Any]], Path]


def test_one_value_is_a_list_of_one_and_places_come_from_the_file(
    write: Write, content: dict[str, Any], tmp_path: Path
) -> None:
    settings = read_settings(write(content))
    assert settings.model == ("llama",)
    assert settings.grid[0].share == (1,)
    assert settings.tasks["facts"].train == ("facts.train.jsonl",)
    assert settings.results == tmp_path / "study" / "results"
    assert settings.workplace == tmp_path / "study" / "work"
    content |= {"out": "there", "work": "elsewhere"}
    settings = read_settings(write(content))
    assert (settings.results, settings.workplace) == (tmp_path / "there/results", tmp_path / "elsewhere")


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
    "decided here": ({"capture": {"prompt": "main"}}, "`capture` has 'prompt', which the study itself decides"),
    "rank of training": ({"training": {"rank": 4}}, "`training` has 'rank', which belongs into `grid`"),
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


@pytest.mark.parametrize(
    ("text", "message"),
    [("grid: [", "isn't YAML"), ("- 1", "holds no settings"), ("!!python/object:os.system {}", "isn't YAML")],
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
