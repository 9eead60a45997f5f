"""Refusals before torch is imported: what files alone show about data, components, device and space."""

import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lorascope.stores.errors import StoreError
from lorascope.stores.json_document import read_json
from lorascope.stores.names import matching_indices
from lorascope.stores.places.files import read_regular
from lorascope.stores.places.place import open_place
from lorascope.stores.size import format_size

from ..config import CaptureConfig
from ..models.source import CONTEXT_NAMES, LORA_MATRIX, adapter_weights_file, locate_model, tensor_header
from ..samples.items import ChatItem, ChoiceItem, CompletionItem, Item
from ..samples.sources import read_item_files

MAX_BYTES = 2**25
"""Size of data that is read whole before anything is loaded; larger data is read once, by the capture."""
LONGEST = 16
"""Number of items whose tokens are counted against the context: those with the longest texts."""
MOST_CHARACTERS = 64
"""Number of characters per token of the context; a longer text is counted up to there."""
MOST_TOKENIZER_BYTES = 2**28
"""Size of the largest `tokenizer.json` that is read."""
SAMPLED = 256
"""Number of items whose tokens stand for those of all, where the space is looked at."""
LEAST_RATIO = 0.5
"""Stored bytes for one byte of base, at least: states of no model compressed as well."""


def check_files(config: CaptureConfig, *, runs_here: bool) -> None:
    """Raise an error if files alone show that a capture can't be made; what they don't show is left to loading.

    `require_inputs` comes first. Data of the hub or of more than 32 MiB is left to loading, and so is a model that
    isn't a folder (or a `.gguf` file that was converted before).

    Parameters
    ----------
    config
        A capture's settings.
    runs_here
        Whether this machine must have the device and the space.

    Raises
    ------
    ValueError
        If the data isn't as `read_items` expects, one of its texts is longer than the model's context, or there is no
        such device.
    StoreError
        If a pattern matches no component, or the run would be far larger than the free space.
    """
    if runs_here:
        require_device_name(config.device)
    items = read_small_data(config.data)
    model, options = locate_model(config.model, dtype=config.dtype, weights=False)
    if "gguf_file" in options or not Path(model).is_dir():
        return
    widths = output_widths(config)
    try:
        whole = read_json(Path(model, "config.json"))
        settings = dict(whole.get("text_config", whole))
        count = token_counter(Path(model, "tokenizer.json"))
    except (AttributeError, ImportError, OSError, TypeError, ValueError):  # what is wrong with the files, loading says
        return
    if config.component and widths and "text_config" not in whole:  # others rename layers as they load
        paths = list(widths)
        chosen = matching_indices(paths, config.component, of="components that the adapter changes")
        widths = {paths[index]: widths[paths[index]] for index in chosen}
    lengths = [settings[name] for name in CONTEXT_NAMES if isinstance(settings.get(name), int) and settings[name] > 0]
    if lengths:
        require_context(items, count, lengths[0])
    is_new = "://" not in config.out and not Path(config.out).exists()
    if (
        runs_here
        and is_new
        and not config.overfill
        and (config.tokens, config.states, config.budget, config.generate) == ("all", "all", None, 0)
    ):
        stated = (settings.get("dtype"), settings.get("torch_dtype"))
        is_float32 = "float32" in (stated if config.dtype == "auto" else (config.dtype,))
        width_bytes = sum(widths.values()) * (4 if is_float32 and config.store == "exact" else 2)
        require_room(config.out, count_tokens(items[: config.limit], count) * width_bytes * LEAST_RATIO)


def output_widths(config: CaptureConfig) -> dict[str, int]:
    """Return path -> output width of all layers that the adapters change; {} if they change more than linear layers."""
    widths: dict[str, int] = {}
    for folder in config.adapters.values():
        for key, facts in tensor_header(adapter_weights_file(Path(folder))).items():
            match = LORA_MATRIX.fullmatch(key)
            if match is None or len(facts["shape"]) != 2 or re.search(r"\.(base_layer|experts)\b", match[1]):
                return {}
            if match[2] == "B":
                widths[match[1]] = facts["shape"][0]
    return widths


def require_device_name(name: str) -> None:
    """Raise ValueError if no device has this name, or it is a GPU's and torch here is built without CUDA and ROCm."""
    if not re.fullmatch(r"auto|(cpu|cuda)(:\d+)?", name):
        raise ValueError(f"`device` is {name!r}; allowed are 'auto', 'cpu', 'cuda', 'cuda:0' ...")
    torch = find_spec("torch") if name.startswith("cuda") else None
    for folder in torch.submodule_search_locations or () if torch else ():
        version = Path(folder, "version.py")
        built = dict(re.findall(r"^(cuda|hip)\b.*= (.+)$", version.read_text(), re.M)) if version.is_file() else {}
        if built and set(built.values()) == {"None"}:
            raise ValueError(f"`device` is {name!r}, but torch is built without CUDA here; use 'cpu'")


def read_small_data(paths: Sequence[str]) -> list[Item]:
    """Return the items of data files; none if the files have more than 32 MiB together, or one is of the hub.

    Raises what `read_item_files` raises.
    """
    files = [Path(path) for path in paths]
    if not all(file.is_file() for file in files) or sum(file.stat().st_size for file in files) > MAX_BYTES:
        return []
    return [item for items in read_item_files("data", paths).values() for item in items]


def token_counter(file: Path) -> Callable[[str], int]:
    """Return a function from a text to its number of tokens, without special ones, by this `tokenizer.json`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(read_regular(file, at_most=MOST_TOKENIZER_BYTES))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(text: str) -> int:
        """Return the number of a text's tokens; 0 if it can't be tokenized, which loading says."""
        try:
            return len(tokenizer.encode(text, add_special_tokens=False))
        except Exception:  # the library raises nothing more special, such as for a missing unknown token
            return 0

    return count


def require_context(items: Sequence[Item], count: Callable[[str], int], context: int) -> None:
    """Raise ValueError if one of the longest texts alone has more tokens than the context; a prompt only adds to it."""
    texts = [(text, item.id) for item in items for text in _whole_texts(item)]
    for text, name in sorted(texts, key=lambda pair: len(pair[0]), reverse=True)[:LONGEST]:
        is_long = len(text.encode()) > context  # a token has a byte at least
        if is_long and (n := count(text[: MOST_CHARACTERS * context])) > context:
            raise ValueError(
                f"sample {name!r} has a text of {n} tokens; the context has {context}: leave the item out, or shorten "
                "it"
            )


def count_tokens(items: Sequence[Item], count: Callable[[str], int]) -> int:
    """Return about how many tokens items have, without prompts, choices and templates, by up to 256 of them."""
    chosen = np.random.default_rng(0).permutation(len(items))[:SAMPLED]
    some = [items[index] for index in chosen]
    n = sum(count(text) for item in some for text in _whole_texts(item)[: 1 if isinstance(item, ChoiceItem) else None])
    return n * len(items) // max(len(some), 1)


def require_room(out: str, n_bytes: float) -> None:
    """Raise StoreError if the place of a run has less than `n_bytes` free."""
    free = open_place(out).free_bytes()
    if free is not None and n_bytes > free:
        raise StoreError(
            f"the run would take more than {format_size(int(n_bytes))} at `{out}`, where {format_size(free)} are free; "
            "`lorascope plan` says what would fit; or make room, or pass `--overfill`"
        )


def _whole_texts(item: Item) -> list[str]:
    """Return the texts that one sample has as a whole: none of a text that is cut into windows."""
    if isinstance(item, CompletionItem):
        return [item.prompt + item.completion]
    if isinstance(item, ChoiceItem):
        return [item.question, *item.choices]
    if isinstance(item, ChatItem):  # a template may drop what was thought before a reply, and white space
        contents = [str(message.get("content") or "") for message in item.messages]
        return [content.rpartition("</think>")[2].strip() for content in contents]
    return []
