"""The data of a capture: items of its files or in memory, their samples, and notes on them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config import CaptureConfig
from ..models.preflight import Note
from ..samples.chats import render_process, special_token_in, special_tokens
from ..samples.encode import encode_items
from ..samples.encoded import EncodedSample
from ..samples.items import ChatItem, ChoiceItem, Item
from ..samples.prompt import Prompts, read_prompts
from ..samples.sources import read_item_files, read_items
from .inputs import IN_MEMORY

Items = Mapping[str, Sequence[Item]]
"""Name of data in memory -> its items."""


class Data(NamedTuple):
    """Items of a capture's files (or of data in memory), and the prompts that its questions are asked with."""

    items: Mapping[str, Sequence[Item]]
    """File, or name of data in memory -> its items."""
    prompts: Prompts
    encoded: Sequence[EncodedSample] = ()
    """Samples without items: texts that the base wrote."""


def read_data(config: CaptureConfig, items: Items | None = None) -> Data:
    """Read the items of a capture's files, or take `items`, and its prompts with their examples; return both as Data.

    Raises
    ------
    FileNotFoundError
        If a file doesn't exist.
    ValueError
        If a file isn't valid or is named twice, an item is in two files, or a prompt shows examples and an
        item has no examples.
    """
    read_prompt = read_prompts(config.prompt, config.examples, seed=config.seed)
    by_file = read_item_files("data", config.data) if items is None else items
    for some in by_file.values():
        read_prompt.require_examples(some)
    return Data(by_file, read_prompt)


def encode_data(
    data: Data, tokenizer: Any, config: CaptureConfig, max_length: int
) -> tuple[list[EncodedSample], dict[str, int]]:
    """Tokenise all items; return their samples, and file -> number of items (or windows) that the limit excluded.

    Multiple-choice items are encoded once per prompt, all with the first prompt before any with the second. Other items
    have no prompt and are encoded once, along with those of the first prompt.
    """
    samples = [*data.encoded]
    omitted: dict[str, int] = {}
    with render_process() as renderer:
        for number, template in enumerate(data.prompts.templates):
            for path, items in data.items.items():
                prompted = [item for item in items if not number or isinstance(item, ChoiceItem)]
                if not prompted:
                    continue
                encoded = encode_items(
                    prompted,
                    tokenizer,
                    max_length=max_length,
                    window_tokens=config.window_tokens,
                    prompt=template,
                    examples=data.prompts.examples,
                    renderer=renderer,
                )
                samples += encoded[: config.limit]
                if n_omitted := len(encoded) - len(encoded[: config.limit]):
                    omitted[path] = max(n_omitted, omitted.get(path, 0))  # later prompts ask questions only
    return samples, omitted


def data_notes(data: Data, tokenizer: Any) -> Iterator[Note]:
    """Yield notes on items with equal choices, and on chats that contain the text of a special token."""
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


def name_data(data: Any) -> tuple[tuple[str, ...], Items | None]:
    """Return (names of the data for the settings, name -> items); None instead of items if the data is files.

    `data` is anything that `read_items` takes, a list of paths, or a list of items.

    Raises
    ------
    ValueError
        If it is empty, or contains an item twice.
    Exception
        What `read_items` raises, if the data isn't files.
    """
    if isinstance(data, str | Path):
        return (str(data),), None
    if isinstance(data, list | tuple) and data and all(isinstance(element, str | Path) for element in data):
        return tuple(map(str, data)), None
    items = collect_items(data)
    name = f"{', '.join(dict.fromkeys(item.dataset for item in items))} {IN_MEMORY}"
    return (name,), {name: items}


def collect_items(data: Any) -> list[Item]:
    """Return the items of `data` (paths, items, or a source of `read_items`); raise ValueError if an item is twice."""
    if isinstance(data, list | tuple) and data and isinstance(data[0], str | Path):
        items = [item for path in data for item in read_items(path)]
    elif isinstance(data, list | tuple) and data and all(isinstance(element, Item) for element in data):
        items = [*data]
    else:
        items = [*read_items(data)]
    counts = Counter((item.dataset, item.split, item.id) for item in items)
    if twice := [key for key, n in counts.items() if n > 1]:
        dataset, _, name = twice[0]
        raise ValueError(f"item {name!r} of {dataset!r} is twice in `data`; give each its own `id`")
    return items
