"""The data of a capture: items of its files, their samples, and notes on them."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..models.model import context_length
from ..models.preflight import Note
from ..samples.chats import special_token_in, special_tokens
from ..samples.encode import encode_items
from ..samples.encoded import EncodedSample
from ..samples.items import ChatItem, ChoiceItem, Item
from ..samples.prompt import Prompts, read_prompts
from ..samples.sources import read_item_files


class Data(NamedTuple):
    """Items of a capture's files, and the prompts that questions are asked with."""

    items: Mapping[str, Sequence[Item]]
    """File, or name of data in memory -> its items."""
    prompts: Prompts


def read_data(
    files: Sequence[str],
    prompts: Sequence[str],
    examples: Sequence[str],
    *,
    seed: int,
    items: Mapping[str, Sequence[Item]] | None = None,
) -> Data:
    """Items of these files, or the given items in their place, and the prompts with their examples.

    Raises
    ------
    FileNotFoundError
        If a file doesn't exist.
    ValueError
        If a file isn't what it should be or stands twice in `files`, an item stands in two files, or a prompt shows
        examples and there are none for an item.
    """
    read_prompt = read_prompts(prompts, examples, seed=seed)
    by_file = read_item_files("data", files) if items is None else items
    for some in by_file.values():
        read_prompt.require_examples(some)
    return Data(by_file, read_prompt)


def encode_data(
    data: Data, model: Any, tokenizer: Any, *, window_tokens: int, limit: int | None
) -> tuple[list[EncodedSample], dict[str, int]]:
    """Samples of all files, and by file how many items (windows, for text) the limit left out.

    All questions are asked with one prompt after the other; other items have no prompt and come with the first.
    """
    length = context_length(model) or sys.maxsize
    samples: list[EncodedSample] = []
    omitted: dict[str, int] = {}
    for number, template in enumerate(data.prompts.templates):
        for path, items in data.items.items():
            prompted = [item for item in items if not number or isinstance(item, ChoiceItem)]
            if not prompted:
                continue
            encoded = encode_items(
                prompted,
                tokenizer,
                max_length=length,
                window_tokens=window_tokens,
                prompt=template,
                examples=data.prompts.examples,
            )
            samples += encoded[:limit]
            if len(encoded) > len(encoded[:limit]):
                omitted[path] = len(encoded) - len(encoded[:limit])
    return samples, omitted


def data_notes(data: Data, tokenizer: Any) -> Iterator[Note]:
    """Notes on items with equal choices, and on chats that contain the text of a special token."""
    special = special_tokens(tokenizer)
    for path, items in data.items.items():
        tied = [item.id for item in items if isinstance(item, ChoiceItem) and len({*item.choices}) < len(item.choices)]
        if tied:
            message = (
                f"{len(tied)} of {len(items)} items of {path!r} have equal choices, {tied[0]!r} the first of them; of "
                "equal likelihoods the first choice counts as the prediction"
            )
            yield Note("data", message, ())
        texts = [(item.id, special_token_in(item, special)) for item in items if isinstance(item, ChatItem)]
        if named := [(name, token) for name, token in texts if token]:
            message = (
                f"{len(named)} of {len(items)} chats of {path!r} hold the text of a special token in a message, "
                f"{named[0][0]!r} ({named[0][1]!r}) the first of them; it passes as that token, as in training"
            )
            yield Note("data", message, ())
