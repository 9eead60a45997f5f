from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.encoded import ANSWER, CHOICE, PROMPT, TEXT, EncodedSample
from lorascope.capture.samples.items import ChoiceItem, TextItem
from lorascope.capture.samples.prompt import read_template, render

SETTINGS = {"max_length": 256, "window_tokens": 16}


def an_item(choices: tuple[str, ...] = ("iron", "wood"), answer: int = 0) -> ChoiceItem:
    return ChoiceItem(id="q", dataset="d", split="s", question="Metal?", choices=choices, answer=answer)


def a_text(text: str) -> TextItem:
    return TextItem(id="t", dataset="d", split="s", text=text)


def test_a_sample_is_the_prompt_and_the_right_answer(tiny_tokenizer: Any, tiny_items: list[ChoiceItem]) -> None:
    samples = encode_items(tiny_items, tiny_tokenizer, **SETTINGS)
    for item, sample in zip(tiny_items, samples, strict=True):
        by_role = [sample.token_ids[sample.roles == role] for role in (PROMPT, CHOICE, ANSWER)]
        prompt, choices, answer = (tiny_tokenizer.decode(ids) for ids in by_role)
        assert prompt.startswith("<s>Choose the correct answer")
        assert prompt.endswith("\nAnswer:")
        assert choices.replace(" ", "") == "".join(item.choices).replace(" ", "")
        assert answer == " " + item.choices[item.answer]
        text = render(read_template("main"), item).text + " " + item.choices[item.answer]
        assert tiny_tokenizer.decode(sample.token_ids) == "<s>" + text
        assert (sample.id, sample.dataset, sample.split, sample.prompt) == (item.id, "tiny", "train", "main")
        assert sample.answer == item.answer
        gold = sample.choices[item.answer].token_ids
        np.testing.assert_array_equal(sample.token_ids[sample.n_context :], gold)
        np.testing.assert_array_equal(sample.is_target, sample.roles == ANSWER)
        assert [tiny_tokenizer.decode(choice.token_ids) for choice in sample.choices] == [" " + c for c in item.choices]
        assert [choice.text for choice in sample.choices] == list(item.choices)
        assert (sample.token_ids.dtype, sample.roles.dtype) == (np.int64, np.uint8)


def test_special_tokens_after_the_text_are_left_out(tiny_tokenizer: Any) -> None:
    closing = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tiny_tokenizer.backend_tokenizer.to_str()))
    closing.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    items = [an_item(), a_text("A text.")]
    found, expected = (encode_items(items, tokenizer, **SETTINGS) for tokenizer in (closing, tiny_tokenizer))
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got.token_ids, wanted.token_ids)


def windows(text: str, tokenizer: Any, n: int) -> list[EncodedSample]:
    return encode_items([a_text(text)], tokenizer, max_length=64, window_tokens=n)


def test_a_text_is_cut_into_windows_that_start_alike(tiny_tokenizer: Any) -> None:
    samples = windows("x" * 20, tiny_tokenizer, 8)
    assert [len(sample.token_ids) for sample in samples] == [8, 8, 7]
    assert [sample.id for sample in samples] == ["t:0", "t:1", "t:2"]
    assert "".join(tiny_tokenizer.decode(sample.token_ids[1:]) for sample in samples) == "x" * 20
    for sample in samples:
        assert sample.token_ids[0] == tiny_tokenizer.bos_token_id
        assert sample.roles.tolist() == [PROMPT] + [TEXT] * (len(sample.token_ids) - 1)
        assert (sample.prompt, sample.choices, sample.answer, sample.n_context) == ("text", (), -1, 1)
        assert sample.is_target.tolist() == [False] + [True] * (len(sample.token_ids) - 1)


def without_start(tokenizer: Any) -> Any:
    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()))
    plain.backend_tokenizer.post_processor = processors.ByteLevel()
    return plain


def test_without_start_tokens_a_window_keeps_its_first_token_unpredicted(tiny_tokenizer: Any) -> None:
    plain = without_start(tiny_tokenizer)
    samples = windows("x" * 17, plain, 8)
    # A last window of one token would have nothing to predict, so it gets one of the window before.
    assert [len(sample.token_ids) for sample in samples] == [8, 7, 2]
    assert all(set(sample.roles.tolist()) == {TEXT} for sample in samples)
    assert samples[0].is_target.tolist() == [False] + [True] * 7
    assert [len(sample.token_ids) for sample in windows("x" * 18, plain, 8)] == [8, 8, 2]
    assert [len(sample.token_ids) for sample in windows("x" * 16, plain, 8)] == [8, 8]
    text = "".join(map(chr, range(97, 97 + 25)))
    assert np.array_equal(
        np.concatenate([sample.token_ids for sample in windows(text, plain, 8)]),
        np.concatenate([sample.token_ids for sample in windows(text, plain, 25)]),
    )


def test_texts_and_choice_items_keep_their_order(tiny_tokenizer: Any, tiny_items: list[ChoiceItem]) -> None:
    together = encode_items([a_text("one"), *tiny_items, a_text("two")], tiny_tokenizer, **SETTINGS)
    assert [sample.id for sample in together] == ["t:0", *"abcdef", "t:0"]
    for item, sample in zip(tiny_items, together[1:], strict=False):  # an answer doesn't depend on its neighbours
        (alone,) = encode_items([item], tiny_tokenizer, **SETTINGS)
        np.testing.assert_array_equal(alone.token_ids, sample.token_ids)
        np.testing.assert_array_equal(alone.roles, sample.roles)


def prepending() -> PreTrainedTokenizerFast:
    """Marks the start of a text with a space of its own, as Llama 2's and Phi-3's tokenizers do."""
    words = ["<unk>", "▁Answer:", "▁iron", "▁", "▁wood"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", behavior="merged_with_next")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_answers_are_tokenized_as_they_follow_the_prompt() -> None:
    tokenizer = prepending()
    assert tokenizer.convert_ids_to_tokens(tokenizer(" iron").input_ids) == ["▁", "▁iron"]
    (sample,) = encode_items([an_item()], tokenizer, **SETTINGS)
    tokens = [tokenizer.convert_ids_to_tokens(choice.token_ids.tolist()) for choice in sample.choices]
    assert tokens == [["▁iron"], ["▁wood"]]


@pytest.mark.parametrize("space", [" ", "▁"], ids=["plain", "adds a space of its own"])
def test_answers_are_tokenized_by_themselves_where_the_seam_would_go(space: str) -> None:
    vocabulary = {character: index for index, character in enumerate(sorted(set(f"Answer:{space}ironwd\n")))}
    vocabulary[f":{space}"] = len(vocabulary)
    bare = Tokenizer(models.BPE(vocab=vocabulary, merges=[(":", space)]))
    if space == "▁":
        bare.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    (sample,) = encode_items([an_item()], PreTrainedTokenizerFast(tokenizer_object=bare), **SETTINGS)
    tokens = [[bare.id_to_token(index) for index in choice.token_ids] for choice in sample.choices]
    assert tokens == [list(f"{space}iron"), list(f"{space}wood")]


def test_refuses_a_sample_longer_than_the_context(tiny_tokenizer: Any) -> None:
    # The longest choice counts, not only the right one: scoring passes them all.
    item = an_item(("iron", "w" * 50))
    (sample,) = encode_items([item], tiny_tokenizer, **SETTINGS)
    longest = sample.n_context + len(sample.choices[1].token_ids)
    assert encode_items([item], tiny_tokenizer, max_length=longest, window_tokens=16)
    with pytest.raises(ValueError, match=f"sample 'q' has {longest} tokens .* the context has {longest - 1};"):
        encode_items([item], tiny_tokenizer, max_length=longest - 1, window_tokens=16)


@pytest.mark.parametrize("where", ["question", "choice"])
@pytest.mark.parametrize("letters", ["x ", "x"], ids=["words", "one-word"])
def test_refuses_an_item_of_50_mb_by_its_beginning(tiny_tokenizer: Any, where: str, letters: str) -> None:
    """No tokenizer gets the whole of it, which would take minutes and gigabytes."""
    text = letters * (50_000_000 // len(letters))
    item = an_item(("iron", text if where == "choice" else "wood"))
    item = replace(item, question=text if where == "question" else item.question)
    given = 0

    def tokenizer(texts: list[str], **options: Any) -> Any:
        nonlocal given
        given = max(given, *map(len, texts))
        return tiny_tokenizer(texts, **options)

    tokenizer.is_fast = True  # type: ignore[attr-defined]
    with pytest.raises(
        ValueError, match=r"sample 'q' has \d+ tokens and more in its 50\d+ characters; the context has 256"
    ):
        encode_items([item], tokenizer, **SETTINGS)
    assert 0 < given < 100_000


def test_takes_a_long_item_of_few_tokens(tiny_tokenizer: Any) -> None:
    """What a tokenizer makes little of isn't long."""
    brief = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tiny_tokenizer.backend_tokenizer.to_str()))
    brief.backend_tokenizer.normalizer = normalizers.Replace("x", "")
    item = replace(an_item(), question="What?" + "x" * 100_000)
    assert len(encode_items([item], brief, **SETTINGS)) == 1


def test_refuses_a_text_without_white_space(tiny_tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"'xx.*' has 50000000 characters without white space .* allowed are 1048576"):
        encode_items([a_text("x" * 50_000_000)], tiny_tokenizer, **SETTINGS)


def test_refuses_what_has_no_tokens(tiny_tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="`items` is empty; give at least one"):
        encode_items([], tiny_tokenizer, **SETTINGS)
    deaf = without_start(tiny_tokenizer)
    deaf.backend_tokenizer.normalizer = normalizers.Replace(" mute", "")
    words = r"sample 'q': `choices\[1\]`, 'mute', makes no tokens; leave it out"
    with pytest.raises(ValueError, match=words):
        encode_items([an_item(("iron", "mute"))], deaf, **SETTINGS)
    with pytest.raises(ValueError, match="text 't' has 0 tokens"):
        windows(" mute", deaf, 8)


def test_refuses_windows_that_cannot_be(tiny_tokenizer: Any) -> None:
    bare = without_start(tiny_tokenizer)
    assert len(windows("xyz", tiny_tokenizer, 2)) == 3
    assert len(windows("x", tiny_tokenizer, 8)) == 1
    for text, tokenizer, n, words in (
        ("xyz", tiny_tokenizer, 65, "`window_tokens` is 65; the context has 64"),
        ("xyz", tiny_tokenizer, 1, "`window_tokens` is 1; give at least 2"),
        ("xyz", bare, 1, "`window_tokens` is 1; give at least 3"),
        ("x", bare, 8, "text 't' has 1 tokens, which leaves none to predict"),
    ):
        with pytest.raises(ValueError, match=words):
            windows(text, tokenizer, n)


def test_refuses_a_slow_tokenizer(tiny_items: list[ChoiceItem]) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="is a Slow, which doesn't report a token's place .* give a fast one"):
        encode_items(tiny_items, Slow(), **SETTINGS)
