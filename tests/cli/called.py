"""Commands as a user calls them, with their inputs and output."""

import json
from pathlib import Path
from typing import Any

import pytest

from lorascope.cli.main import main


def call(command: str, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, and what went to the terminal and to its channel of errors."""
    code = main([command, *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def flat(text: str) -> str:
    """Words without the line breaks and columns that they are set in."""
    return " ".join(text.split())


def make_inputs(folder: Path, n: int, **sizes: int) -> Any:
    """Write a model and n questions to a folder, and return the model; needs torch."""
    from ..tiny import byte_tokenizer, llama, save_model

    tokenizer = byte_tokenizer()
    model = llama(len(tokenizer), **sizes)
    save_model(folder / "model", model, tokenizer)
    sums = [{"id": str(i), "question": f"{i} + 1?", "choices": [str(i + 1), str(i)], "answer": 0} for i in range(n)]
    (folder / "sums.train.jsonl").write_text("".join(json.dumps(item) + "\n" for item in sums))
    return model
