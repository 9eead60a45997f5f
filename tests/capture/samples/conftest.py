"""Samples of the tiny items and of a text, as the tests of what is made of them share them."""

from typing import Any

import pytest

from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.encoded import EncodedSample
from lorascope.capture.samples.items import ChoiceItem, TextItem


@pytest.fixture
def samples(tiny_tokenizer: Any, tiny_items: list[ChoiceItem]) -> list[EncodedSample]:
    return encode_items(tiny_items, tiny_tokenizer, max_length=256, window_tokens=32)


@pytest.fixture
def text_samples(tiny_tokenizer: Any) -> list[EncodedSample]:
    text = TextItem(id="t", dataset="d", split="", text="Where the four questions are, the answer is near.")
    return encode_items([text], tiny_tokenizer, max_length=256, window_tokens=16)
