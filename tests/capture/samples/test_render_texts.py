"""Rendering of chats in another process: as transformers renders them, and bounded whatever a template does."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.capture.samples import chats
from lorascope.capture.samples.chats import render_chats, render_process
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.items import ChatItem
from lorascope.capture.samples.sources import read_items
from lorascope.stores.confined import ConfinedProcess

from ...chats import CHAT_TOKENIZERS, chat_tokenizer, conversations
from ...hostile_templates import ALL, HOSTILE

SECONDS, MAX_BYTES = 0.5, 2**27


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return chat_tokenizer("chatml")


@pytest.fixture(scope="module")
def sound() -> Iterator[ConfinedProcess]:
    with render_process() as process:
        yield process


def get_weather(city: str, days: int = 1) -> str:
    """
    Get the weather.

    Args:
        city: Name of the city.
        days: How many days.
    """
    return f"{city} {days}"


ASKED = [{"role": "user", "content": "Hi\u2028\r\n<b>&\0 é😀"}, {"role": "assistant", "content": " Yes. "}]
REASONED = [ASKED[0], {"role": "assistant", "content": "4", "thinking": "2 + 2", "note": None, "n": np.float32(0.5)}]
CALLED = [
    ASKED[0],
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"ü": [1, 2.5]}}}]},
    {"role": "tool", "content": "4"},
]
SOUND: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any]]] = {
    "dates": ("{{ strftime_now('%Y') }}{{ messages[0].content }}", ASKED, {}),
    "special tokens": ("{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ additional_special_tokens }}", ASKED, {}),
    "options": ("{{ x }}{{ y | tojson }}{{ z }}", ASKED, {"x": 2**70, "y": {"a": [None, 1.5]}, "z": float("inf")}),
    "tuples and arrays": ("{{ x }}{{ y }}", ASKED, {"x": np.int64(3), "y": np.ones(2)}),
    "keys and tuples": ("{{ x[1] }}{{ x[(2, 3)] }}{{ y }}", ASKED, {"x": {1: "one", (2, 3): "two"}, "y": (1, 2)}),
    "tools": ("{{ tools | tojson(indent=2) }}", ASKED, {"tools": [{"name": "add", "ü": [1]}]}),
    "functions": ("{% for tool in tools %}{{ tool | tojson }}{% endfor %}", ASKED, {"tools": [get_weather]}),
    "documents": ("{{ documents[0].title }}", ASKED, {"documents": [{"title": "t", "text": "x"}]}),
    "reasoning": ("{{ messages[1].reasoning_content }}{{ messages[1] }}", REASONED, {}),
    "calls": ("{% for m in messages %}{{ m }}{{ m.content is defined }}{% endfor %}", CALLED, {}),
    "loop controls": ("{% for m in messages %}{{ m.role }}{% break %}{% endfor %}", ASKED, {}),
    "namespaces": (
        "{% set n = namespace(a=0) %}{% for m in messages %}{% set n.a = n.a + 1 %}{% endfor %}{{ n.a }}",
        ASKED,
        {},
    ),
    "blocks": (
        "  {% if true %}\n  a\n  {% endif %}\n{%- for m in messages %}\n{{ m.content }}\n{% endfor %}",
        ASKED,
        {},
    ),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_template_writes_what_it_writes_in_this_process(
    name: str, tokenizer: Any, sound: ConfinedProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    template, messages, options = SOUND[name]
    monkeypatch.setattr(tokenizer, "chat_template", template)
    tools = options.get("tools")
    own = {key: value for key, value in options.items() if key != "tools"}
    item = ChatItem(
        id="c", dataset="d", split="", messages=tuple(messages), tools=tools and tuple(tools), template_options=own
    )
    (texts,) = render_chats([item], tokenizer, sound)
    assert not texts[0].refusal
    assert texts[0].text == tokenizer.apply_chat_template(messages, tokenize=False, **options)


@pytest.mark.parametrize("name", CHAT_TOKENIZERS)
def test_many_chats_come_in_batches_in_their_order(
    name: str, sound: ConfinedProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chats, "BATCH_CHATS", 7)
    own, spoken = chat_tokenizer(name), conversations(40)
    items = read_items([{"messages": messages} for messages in spoken])
    texts = [rendered[0] for rendered in render_chats(items, own, sound)]  # type: ignore[arg-type]
    assert [text.text for text in texts] == [own.apply_chat_template(m, tokenize=False) for m in spoken]
    for text, messages in zip(texts, spoken, strict=True):
        marked = [text.text[start:stop] for start, stop in text.assistant_spans]
        said = [m["content"].strip() for m in messages if m["role"] == "assistant"]
        assert [words.removesuffix("<|im_end|>").strip() for words in marked] == (said if name == "marked" else [])


def test_each_chat_has_the_template_for_its_tools(tokenizer: Any, sound: ConfinedProcess) -> None:
    own = chat_tokenizer("chatml")
    own.chat_template = {"default": "plain {{ messages[0].content }}", "tool_use": "tools {{ messages[0].content }}"}
    tools = [None, [{"name": "f"}], [{"name": "f"}], None]
    items = read_items([{"messages": ASKED, "tools": some} for some in tools])
    texts = [rendered[0].text[:5] for rendered in render_chats(items, own, sound)]  # type: ignore[arg-type]
    assert texts == ["plain", "tools", "tools", "plain"]


def test_a_tokenizer_that_writes_chats_by_code_is_refused(tokenizer: Any, sound: ConfinedProcess) -> None:
    class Own(type(tokenizer)):  # type: ignore[misc]
        def apply_chat_template(self, *_: Any, **__: Any) -> str:
            return "anything"

    with pytest.raises(ValueError, match="'data:0' is a chat, but Own writes chats by Python code of its own instead"):
        list(render_chats(read_items([{"messages": ASKED}]), Own(tokenizer_object=tokenizer.backend_tokenizer), sound))  # type: ignore[arg-type]


def test_the_process_needs_no_torch() -> None:
    script = "import lorascope.capture.samples.render_texts, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


TIME, MEMORY = r"took more than 0\.5 s to write", "took more than 134 MB of memory to write"
REFUSED = "template doesn't take the chat: .*"
EXPECTED = {
    **dict.fromkeys(
        (
            "string times a constant",
            "string times a number",
            "list times a number",
            "doubled text",
            "doubled list",
            "doubled block",
            "join",
            "replace",
            "percent format",
            "format",
            "format filter",
            "center",
            "zfill",
            "indented JSON",
            "filled batch",
        ),
        MEMORY,
    ),
    **dict.fromkeys(("nested ranges", "macro that calls itself twice", "power"), TIME),
    "long output": f"{TIME}|{MEMORY}",
    "nested callers": f"{TIME}|{REFUSED}too many statically nested blocks",
    "macro without an end": REFUSED + "recursion",
    "loop without an end": REFUSED + "recursion",
    "block without an end": REFUSED + "recursion",
    "deep brackets": REFUSED + "recursion",
    "deep conditions": REFUSED + "recursion",
    "deep loops": REFUSED + "too many statically nested blocks",
    "dunder": REFUSED + "'__class__' of 'str' object is unsafe",
    "file": REFUSED + "no loader",
    "long reason": REFUSED + "x$",
}
"""Templates of `HOSTILE` -> words of the error; `benchmarks/templates.py` tries all of them with the usual limits."""


@pytest.fixture(scope="module")
def shared() -> Iterator[ConfinedProcess]:
    """Process of all hostile templates but those that it doesn't outlive."""
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        with render_process() as process:
            yield process


def shorten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(chats, "MAX_SECONDS", SECONDS)
    patch.setattr(chats, "MAX_BYTES", MAX_BYTES)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_hostile_template_ends_soon_in_one_line(
    name: str, tokenizer: Any, shared: ConfinedProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = EXPECTED[name]
    monkeypatch.setattr(tokenizer, "chat_template", HOSTILE[name] + ALL)
    shorten(monkeypatch)
    items = read_items([{"messages": messages} for messages in conversations(3)])
    begun = time.monotonic()
    with pytest.raises(ValueError, match=f"^sample 'data:0': .*({words})") as caught:
        encode_items(items, tokenizer, max_length=1000, window_tokens=16, renderer=None if TIME in words else shared)
    assert time.monotonic() - begun < 30  # of a machine whose processors others share
    assert len(str(caught.value)) < 1200
    if words in (TIME, MEMORY):
        assert f"of tokenizer {type(tokenizer).__name__!r}" in str(caught.value)
        assert "; set `tokenizer.chat_template` to the one that the model was trained with" in str(caught.value)


def test_the_sample_that_takes_too_long_is_named(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    spin = "{% if messages[0].content == 'spin' %}{{ 9 ** (9 ** (messages | length + 7)) }}{% endif %}"
    monkeypatch.setattr(tokenizer, "chat_template", spin + ALL)
    turns = [[{"role": "user", "content": word}, {"role": "assistant", "content": "Yes."}] for word in ("go", "spin")]
    with pytest.raises(ValueError, match=f"^sample 'data:1': .*{TIME} it and up to 15 chats before it"):
        encode_items(read_items([{"messages": m} for m in turns]), tokenizer, max_length=1000, window_tokens=16)


def test_a_text_of_any_length_is_not_taken_over(
    tokenizer: Any, sound: ConfinedProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", "{{ 'x ' * 40000000 }}" + ALL)
    with pytest.raises(ValueError, match="it would have 800[0-9]* characters; allowed are 67108864"):
        encode_items(read_items([{"messages": ASKED}]), tokenizer, max_length=1000, window_tokens=16, renderer=sound)


def test_one_process_serves_all_files_of_a_capture(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorascope.capture.config import CaptureConfig
    from lorascope.capture.settling.data import encode_data, read_data

    started: list[ConfinedProcess] = []
    start = ConfinedProcess.__init__

    def count(self: ConfinedProcess, *args: Any, **options: Any) -> None:
        started.append(self)
        start(self, *args, **options)

    monkeypatch.setattr(ConfinedProcess, "__init__", count)
    items = {name: [*read_items([{"messages": m} for m in conversations(3)])] for name in ("a", "b")}
    config = CaptureConfig(model="m", adapter=("a",), data=("a", "b"), out="r", window_tokens=16)
    samples, _ = encode_data(read_data(config, items), tokenizer, config, 1000)
    assert len(samples) == 6
    assert len(started) == 1
    process = started[0]._process
    assert process is not None
    assert process.returncode is not None
