"""The check of words refuses what readers had to read twice, in names, docstrings, messages and docs."""

import importlib.util
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("words", Path(__file__).parents[1] / ".ci/words.py")
assert SPEC is not None
assert SPEC.loader is not None
words = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(words)


@pytest.mark.parametrize(
    ("name", "text", "messages"),
    [
        ("page.md", "One line.\nA number beside it.\n", ["'beside': write `next to`, `with`, `compared with`"]),
        ("rows.py", 'message = f"{1} rows are left out"\n', ["'left out': write `excluded`"]),
        (
            "rows.py",
            '"""Sum of those tokens that `take` takes."""\n',
            ["`module`: 'those tokens that': write the noun"],
        ),
        ("shelf.py", "def _acts(): ...\n", ["`shelf`: write a noun", "`_acts`: write a noun"]),
        ("rows.py", '"""Rows of a run."""\nKEY = "beside"\nmessage = "a row is missing"\n', []),
    ],
)
def test_each_kind_of_text_is_checked(tmp_path: Path, name: str, text: str, messages: list[str]) -> None:
    (tmp_path / name).write_text(text)
    assert [finding.message for finding in words.findings(tmp_path / name)] == messages
