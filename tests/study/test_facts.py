"""The demo's questions: the committed files are what the script gives, and each item can be asked."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lorascope.study.demo_inputs import facts_path

SPLITS = ("train", "test")
SCRIPT = Path(__file__).parents[2] / "study/facts"


def committed(split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in facts_path(split).read_text(encoding="utf-8").splitlines()]


def test_committed_files_are_what_the_script_gives(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], check=True)
    for split in SPLITS:
        assert (tmp_path / f"facts.{split}.jsonl").read_bytes() == facts_path(split).read_bytes()


def test_data_states_its_licence() -> None:
    assert "CC0-1.0" in (facts_path("train").parent / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize("split", SPLITS)
def test_each_item_can_be_asked(split: str) -> None:
    items = committed(split)
    for item in items:
        assert set(item) == {"id", "question", "choices", "labels", "answer"}
        assert re.fullmatch(r"facts-[a-z-]+-\d{3}", item["id"])
        assert item["question"].endswith("?")
        assert item["labels"] == ["A", "B", "C", "D"]
        assert len({choice.casefold() for choice in item["choices"]}) == 4
        assert item["answer"] in range(4)
    places = Counter(item["answer"] for item in items)
    assert all(abs(places[place] / len(items) - 0.25) < 0.1 for place in range(4))


def test_splits_share_nothing() -> None:
    items = [item for split in SPLITS for item in committed(split)]
    for key in ("id", "question"):
        assert len({item[key].casefold() for item in items}) == len(items)
