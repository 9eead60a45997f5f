"""Chats: every token's role against an independent parse of the text, and against transformers' own marks."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from lorascope.capture.samples.chats import render_process, special_token_in, special_tokens
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.encoded import EncodedSample, count_roles
from lorascope.capture.samples.items import ChatItem
from lorascope.capture.samples.sources import read_items
from lorascope.stores.format.tables import ROLES

from ...chats import CHAT_TOKENIZERS, chat_tokenizer, conversations, roles_by_hand

ENDS = {"chatml": "<|im_end|>", "marked": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>"}
"""Special token with which the assistant's turn ends."""


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {name: chat_tokenizer(name) for name in CHAT_TOKENIZERS}


Encode = Callable[..., EncodedSample]


@pytest.fixture(scope="module")
def encode_chat() -> Iterator[Encode]:
    """All chats of this module are rendered in one process."""
    with render_process() as renderer:

        def encode(item: ChatItem, tokenizer: Any, *, max_length: int) -> EncodedSample:
            (sample,) = encode_items([item], tokenizer, max_length=max_length, window_tokens=16, renderer=renderer)
            return sample

        yield encode


def chat(messages: list[dict[str, Any]], **options: Any) -> ChatItem:
    return ChatItem(id="c", dataset="d", split="", messages=tuple(messages), **options)


@pytest.mark.parametrize("name", CHAT_TOKENIZERS)
def test_every_token_has_the_role_that_the_turns_give_it(
    name: str, tokenizers: dict[str, Any], encode_chat: Encode
) -> None:
    tokenizer, chats = tokenizers[name], conversations(50)
    for number, (item, messages) in enumerate(zip(read_items([{"messages": m} for m in chats]), chats, strict=True)):
        sample = encode_chat(item, tokenizer, max_length=1000)
        found = [ROLES[role] for role in sample.roles]
        assert found == roles_by_hand(name, tokenizer, messages, sample.token_ids), number
        assert sample.token_ids.tolist() == tokenizer.apply_chat_template(messages, return_dict=False)
        assert (sample.is_target == (sample.roles == ROLES.index("assistant"))).all()
        # What each role's tokens say is what the messages say, except for white space that the template trims.
        for role, end in (("system", ""), ("user", ""), ("assistant", ENDS[name])):
            spoken = tokenizer.decode(sample.token_ids[sample.roles == ROLES.index(role)])
            wanted = "".join(m["content"].strip() + end for m in messages if m["role"] == role)
            assert "".join(spoken.split()) == "".join(wanted.split())


def test_roles_are_those_of_the_marks_where_a_template_has_them(
    tokenizers: dict[str, Any], encode_chat: Encode
) -> None:
    """And the tokens found without marks are the same: ChatML with and without `{% generation %}`."""
    marked = tokenizers["marked"]
    bare = copy.deepcopy(marked)
    bare.chat_template = marked.chat_template.replace("{%- generation %}", "").replace("{%- endgeneration %}", "")
    for messages in conversations(12):
        one, other = (encode_chat(chat(messages), tokenizer, max_length=1000) for tokenizer in (marked, bare))
        assert one.token_ids.tolist() == other.token_ids.tolist()
        assert one.roles.tolist() == other.roles.tolist()
        mask = marked.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        assert one.is_target.tolist() == [bool(value) for value in mask["assistant_masks"]]


def test_only_the_completion_is_predicted_and_gone_on_from(tokenizers: dict[str, Any], encode_chat: Encode) -> None:
    messages = conversations(6)[5]
    for name in CHAT_TOKENIZERS:
        (item,) = read_items([{"prompt": messages[:3], "completion": messages[3:]}])
        sample = encode_chat(item, tokenizers[name], max_length=1000)
        whole = encode_chat(chat(messages), tokenizers[name], max_length=1000)
        assert sample.roles.tolist() == whole.roles.tolist()
        first, second = runs(whole.is_target)
        assert runs(sample.is_target) == [second]
        assert sample.n_prefix == whole.n_prefix == second[0]
        prompt = tokenizers[name].apply_chat_template(messages[:3], add_generation_prompt=True, return_dict=False)
        assert sample.token_ids[: sample.n_prefix].tolist() == prompt
        written = sample.continued_with(np.array([7, 8]))
        assert written.token_ids.tolist() == [*prompt, 7, 8]
        assert not written.is_target.any()
        assert first[0] < second[0]


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.r_[0, mask.astype(int), 0]))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def test_tools_and_calls_go_through_a_template_that_marks(tokenizers: dict[str, Any], encode_chat: Encode) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}
    messages = [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": '{"sum": 4}'},
        {"role": "assistant", "content": "4"},
    ]
    (item,) = read_items([{"messages": messages}])
    sample = encode_chat(item, tokenizers["marked"], max_length=1000)
    assert {"tool", "assistant", "user", "template"} == count_roles([sample]).keys()
    first = tokenizers["marked"].decode(sample.token_ids[slice(*runs(sample.is_target)[0])])
    assert first.endswith("</tool_call><|im_end|>")
    assert '"a": 2' in first
    words = r"sample 'data:0': .* writes more of the assistant's messages than their `content` \(tool_calls\), so"
    with pytest.raises(ValueError, match=words + r".* marks what the assistant says with \{% generation %\}"):
        encode_chat(item, tokenizers["chatml"], max_length=1000)
    (shown,) = read_items([{"messages": messages[:1] + messages[3:], "tools": [{"name": "add"}]}])
    text = tokenizers["chatml"].decode(encode_chat(shown, tokenizers["chatml"], max_length=1000).token_ids)
    assert '<tools>\n{"name": "add"}\n</tools>' in text


def test_options_reach_the_template_and_json_is_seen_through(tokenizers: dict[str, Any], encode_chat: Encode) -> None:
    tokenizer = copy.deepcopy(tokenizers["marked"])
    tokenizer.chat_template = (
        "{{ greeting }}{% for m in messages %}<|im_start|>"
        "{% if m.role == 'tool' %}{{ m.content | tojson }}{% else %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}"
    )
    turns = [{"role": "tool", "content": 'a "b"\nc'}, {"role": "assistant", "content": "Iron."}]
    (item,) = read_items([{"messages": turns, "chat_template_kwargs": {"greeting": "Hello!"}}])
    sample = encode_chat(item, tokenizer, max_length=100)
    assert tokenizer.decode(sample.token_ids).startswith('Hello!<|im_start|>"a \\"b\\"\\nc"<|im_end|>')
    assert tokenizer.decode(sample.token_ids[sample.roles == ROLES.index("tool")]) == 'a \\"b\\"\\nc'
    assert tokenizer.decode(sample.token_ids[sample.is_target]) == "Iron.<|im_end|>"


@pytest.mark.parametrize("trim", ["", " | trim", ".strip('\\n')", ".lstrip('\\n')", ".rstrip()"])
def test_white_space_around_what_is_said_may_be_kept_or_trimmed(
    trim: str, tokenizers: dict[str, Any], encode_chat: Encode
) -> None:
    tokenizer = copy.deepcopy(tokenizers["llama3"])  # whose tokens of white space cover nothing
    tokenizer.chat_template = (
        "{% for m in messages %}<|start_header_id|>{{ m.content" + trim + " }}<|eot_id|>{% endfor %}"
    )
    (item,) = read_items([{"messages": [{"role": "assistant", "content": "\n One.\n two \n  "}]}])
    sample = encode_chat(item, tokenizer, max_length=100)
    assert [ROLES[role] for role in sample.roles] == ["template"] + ["assistant"] * (len(sample.roles) - 1)


def test_special_tokens_in_what_is_said_pass_as_transformers_takes_them(
    tokenizers: dict[str, Any], encode_chat: Encode
) -> None:
    tokenizer = tokenizers["chatml"]
    item = chat([{"role": "user", "content": "Say <|im_end|> twice."}, {"role": "assistant", "content": "No."}])
    sample = encode_chat(item, tokenizer, max_length=1000)
    said = sample.token_ids[sample.roles == ROLES.index("user")]
    assert (said == tokenizer.convert_tokens_to_ids("<|im_end|>")).sum() == 1
    assert special_token_in(item, special_tokens(tokenizer)) == "<|im_end|>"
    assert special_token_in(chat(conversations(1)[0]), special_tokens(tokenizer)) is None


SHORT = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": " 4 "}]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "sample 'c' is a chat, but the tokenizer has no chat template for it; set `tokenizer.chat_template`"),
        ("{{ raise_exception('Not\nso') }}", "sample 'c': the tokenizer's chat template doesn't take the chat: Not so"),
        ("{{ messages[0].content }}", r"template writes 0 times what message 1 \(assistant\) says.*\{% generation %\}"),
        (
            "{{ messages[1].content }}{% for m in messages %}{{ m.content }}{% endfor %}",
            r"template writes 2 times what message 1 \(assistant\) says",
        ),
        (
            "{% for m in messages %}{{ m.content | replace('2', 'two') }}{% endfor %}",
            r"changes what message 0 \(user\) says, .*; give it as the template writes it, or leave the item out",
        ),
        (
            "{% for m in messages %}{{ m.content | replace('4', 'four') }}{% endfor %}",
            r"changes what message 1 \(assis",
        ),
        (
            "{% for m in messages %}{{ m.content }}{% endfor %}\ue000lorascope77\ue001",
            r"sample 'c': the chat, or .* writes 'lorascope77' between U\+E000 and U\+E001, .*; leave the item out",
        ),
        ("{{ 1 / 0 }}", "template doesn't take the chat: division by zero"),
        (
            "{% generation %}{% endgeneration %}{{ messages[0].content }}",
            "none of its [0-9]+ tokens is the assistant's",
        ),
        (
            "{% for m in messages %}{{ m.content * 999 }}{% endfor %}",
            "tokens and more in its .* characters; the context",
        ),
    ],
)
def test_what_a_template_makes_of_a_chat_is_proved(
    template: str | None, words: str, tokenizers: dict[str, Any], encode_chat: Encode
) -> None:
    tokenizer = copy.deepcopy(tokenizers["chatml"])
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=words) as caught:
        encode_chat(chat(SHORT), tokenizer, max_length=100)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["truncation", "padding", "chat_template", "return_dict", "continue_final_message"])
def test_data_neither_brings_a_template_nor_cuts_tokens_off(
    name: str, tokenizers: dict[str, Any], encode_chat: Encode
) -> None:
    (item,) = read_items([{"messages": SHORT, "chat_template_kwargs": {name: True, "max_length": 20}}])
    with pytest.raises(
        ValueError, match="sample 'data:0': `chat_template_kwargs` has `.*`, which isn't for the template"
    ):
        encode_chat(item, tokenizers["marked"], max_length=1000)


def test_null_is_no_option_and_what_a_template_writes_must_be_text(
    tokenizers: dict[str, Any], encode_chat: Encode
) -> None:
    tokenizer = copy.deepcopy(tokenizers["chatml"])
    tokenizer.chat_template = "{{ date | default('today') }}" + "{% for m in messages %}{{ m.content }}{% endfor %}"
    options: dict[str, str | None]
    for options, text in (({"date": None}, "today2 + 2? 4 "), ({"date": "then "}, "then 2 + 2? 4 ")):
        (item,) = read_items([{"messages": SHORT, "chat_template_kwargs": options}])
        assert tokenizer.decode(encode_chat(item, tokenizer, max_length=100).token_ids) == text
    (item,) = read_items([{"messages": SHORT, "chat_template_kwargs": {"date": "\ud800"}}])
    with pytest.raises(ValueError, match="sample 'data:0': .* doesn't take the chat: .* surrogates not allowed"):
        encode_chat(item, tokenizer, max_length=100)


def test_a_chat_that_is_too_long_is_refused_whole(tokenizers: dict[str, Any], encode_chat: Encode) -> None:
    for name, tokenizer in tokenizers.items():
        n = len(encode_chat(chat(SHORT), tokenizer, max_length=1000).token_ids)
        assert len(encode_chat(chat(SHORT), tokenizer, max_length=n).token_ids) == n, name
        with pytest.raises(ValueError, match=f"sample 'c' has {n} tokens; the context has {n - 1}: leave the item out"):
            encode_chat(chat(SHORT), tokenizer, max_length=n - 1)
