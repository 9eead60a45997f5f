from pathlib import Path

import pytest

from lorascope.stores import StoreError
from lorascope.stores.json_document import MAX_BYTES, MAX_CONTAINERS, parse_json, read_json


def test_what_json_holds(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": ["é", "\\ud83d\\ude00", 1.5, null]}')
    assert read_json(tmp_path / "x.json") == {"a": ["é", "😀", 1.5, None]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "`x` isn't JSON: Expecting value"),
        (b'{"a": ', "`x` isn't JSON: Expecting value"),
        (b'"\xff"', "`x` isn't JSON: .*can't decode"),
        (b"[" * 100_000 + b"]" * 100_000, "`x` is nested too deep; write it again"),
        (b'{"a": "\\ud83d"}', "`x` holds half of a character"),
        (b'{"\\uD83D": 1}', "`x` holds half of a character"),
        (b'[{"a": 1, "b": 2, "a": 1}]', "`x` isn't JSON: 'a' is twice in one object"),
        (b"1" * 5000, "`x` isn't JSON: Exceeds the limit"),
        (b"[" + b"{}," * MAX_CONTAINERS + b"1]", "`x`, 3.15 MB of JSON, is more than this reader accepts; check that"),
        (b" " * (MAX_BYTES + 1), "`x`, 33.6 MB of JSON, is more than this reader accepts"),
    ],
    ids=["empty", "torn", "bytes", "deep", "half", "half a key", "key twice", "digits", "containers", "size"],
)
def test_what_is_refused_in_one_line(content: bytes, words: str) -> None:
    with pytest.raises(StoreError, match=words) as refused:
        parse_json(content, "x")
    assert "\n" not in str(refused.value)


def test_only_a_regular_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder, not a file"):
        read_json(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "nothing")
