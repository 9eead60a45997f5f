"""Samples of items in memory, and how many items a limit excludes."""

from pathlib import Path
from typing import Any

from lorascope.capture.config import CaptureConfig
from lorascope.capture.samples.items import ChoiceItem, TextItem
from lorascope.capture.settling.data import encode_data, read_data


def test_of_mixed_items_all_that_a_limit_excludes_are_counted(tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Further prompts ask the questions only, of which fewer are excluded than of all items."""
    shared = {"dataset": "mixed", "split": ""}
    texts = [TextItem(id=f"t{n}", text="one two three", **shared) for n in range(3)]
    questions = [ChoiceItem(id=f"q{n}", question="one?", choices=("a", "b"), answer=0, **shared) for n in range(2)]
    (tmp_path / "plain.txt").write_text("{question} Answer:")
    prompts = ("main", str(tmp_path / "plain.txt"))
    settings: Any = {"adapter": ("a",), "data": ("mixed",), "prompt": prompts, "window_tokens": 64, "limit": 1}
    config = CaptureConfig(model="m", out="r", **settings)
    data = read_data(config, {"mixed": [*texts, *questions]})
    samples, omitted = encode_data(data, tiny_tokenizer, config, 256)
    assert len(samples) == 2
    assert omitted == {"mixed": 4}
