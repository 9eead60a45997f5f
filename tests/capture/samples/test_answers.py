import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from lorascope.capture.samples.answers import Answer, is_cut_short, parse_choice, write_answers
from lorascope.capture.samples.encode import EncodedSample, encode_items
from lorascope.capture.samples.items import ChoiceItem

METALS = ("iron", "iron oxide", "a wooden box", "gold")
NUMBERS = ("3", "-3", "3.5", "0.5")


def writes(text: str, tokenizer: Any) -> Any:
    """A model that writes `text` after every ":" and ends there: the last token alone decides the next."""
    ids = tokenizer(f":{text}", add_special_tokens=False).input_ids
    ids = [*ids, tokenizer.eos_token_id]
    assert len(set(ids)) == len(ids)
    n = len(tokenizer)
    config = LlamaConfig(
        vocab_size=n,
        hidden_size=2 * (n // 2 + 1),
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.data.zero_()  # layers add nothing to the embedding
    model.model.norm.weight.data.fill_(1)
    model.model.embed_tokens.weight.data[:, :n] = torch.eye(n)
    for before, after in itertools.pairwise(ids):
        model.lm_head.weight.data[after, before] = 1
    return model


@pytest.mark.parametrize(
    ("text", "written", "predictions"),
    [
        (" B.\n", " B.\n", [1, 1, 1, 1, 1, 1]),
        (" C", " C", [-1, 2, 2, -1, 2, -1]),
        (" the fourth", " the fourth", [-1, 1, -1, -1, -1, -1]),
        ("\nI gues", "\nI gu", [-1, -1, -1, -1, -1, -1]),
    ],
    ids=["a letter", "a letter that some lack", "a text", "neither, and no end"],
)
def test_answers_are_known(
    text: str, written: str, predictions: list[int], tiny_tokenizer: Any, samples: list[EncodedSample]
) -> None:
    n = 5 if predictions[1] < 0 else 12
    found = write_answers(writes(text, tiny_tokenizer), tiny_tokenizer, samples, n=n, batch_tokens=10_000)
    assert found == [Answer(written, prediction) for prediction in predictions]


@pytest.mark.parametrize(("n", "prediction"), [(1, -1), (2, 0), (3, 0)])
def test_an_answer_that_was_cut_off(n: int, prediction: int, tiny_tokenizer: Any) -> None:
    item = ChoiceItem(id="q", dataset="d", split="", question="Who?", choices=("the", "the four"), answer=1)
    samples = encode_items([item], tiny_tokenizer, max_length=256, window_tokens=32)
    (found,) = write_answers(writes(" the", tiny_tokenizer), tiny_tokenizer, samples, n=n, batch_tokens=1000)
    assert found == Answer(" the", prediction)


@pytest.mark.parametrize(
    ("text", "index"),
    [
        # 1. the text of a choice at the beginning
        ("\n\n  Iron.\nB. iron oxide", 0), ("IRON   Oxide is rust", 1), ('**"Gold"**, because', 3), ("gold\u2026", 3),
        ("A wooden box", 2), ("iron, not gold", 0),
        # 2. a letter at the beginning
        ("B", 1), ("b.", 1), ("(C)", 2), ("[D]", 3), ("D: gold", 3), ("A) the first", 0), ("B. iron", 1),
        ("**B.** yes", 1),
        # 3. one text anywhere
        ("The answer is gold.", 3), ("That would be iron oxide", 1), ("A iron", 0), ("-> gold", 3), ("E. gold", 3),
        # nothing
        ("", -1), (" \n ", -1), ("...\niron", -1), ("E", -1), ("A metal", -1), ("A.I. says", -1), ("a.m.", -1),
        ("B, I think", -1), ("AB", -1), ("1.", -1), ("ironic", -1), ("iron-free", -1), ("non-iron", -1),
        ("either iron or gold", -1), ("I don't know\niron", -1),
    ],
)  # fmt: skip
def test_answers_among_metals(text: str, index: int) -> None:
    assert parse_choice(text, METALS) == index


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("3", 0), ("-3", 1), ("3.5", 2), ("0.5", 3), ("3.", 0), ("3, since", 0), ("x = -3", 1), ("x = 3", 0),
        ("3.55", -1), ("3,500", -1), ("3/4", -1), (".5", -1), ("13", -1), ("30", -1), ("x = 13.5", -1), ("2.3", -1),
        ("C. 3", 2), ("3^2", -1), ("The sum is 3.5.", 2),
    ],
)  # fmt: skip
def test_answers_among_numbers(text: str, index: int) -> None:
    assert parse_choice(text, NUMBERS) == index


@pytest.mark.parametrize(
    ("text", "choices", "index"),
    [
        ("B", ("B", "A"), 0),  # a text comes before a letter
        ("A.", ("B", "A"), 1),
        ("A dog barks", ("a cat", "A dog"), 1),
        ("A cat", ("dog", "cat"), 1),
        ("A cat", ("dog", "horse"), -1),
        ("I think so", tuple("klmnopqrs"), -1),
        ("I.", tuple(map(str, range(9))), 8),
        ("C++ is it", ("C", "C++", "C#"), 1),
        ("C is it", ("C", "C++", "C#"), 0),
        (".5", ("5", ".5"), 1),
        ("5 %", ("5", "5 %"), 1),
        ("same", ("same", "Same."), -1),  # alike, so that only a letter tells
        ("B. same", ("same", "Same."), 1),
        ("?", ("?", "!"), -1),
        ("B", ("?", "!"), 1),
        ("can't", ("can", "may"), -1),
        ("Can\u2019t", ("can", "can\u2019t"), 1),
        ("à  côté!", ("là", "À côté"), 1),
        ("(a|b)+ matches", ("(a|b)+", "a*"), 0),  # no pattern
        ("STRASSE", ("Weg", "straße"), 1),
    ],
)
def test_traps(text: str, choices: tuple[str, ...], index: int) -> None:
    assert parse_choice(text, choices) == index


@pytest.mark.parametrize(
    ("text", "choices", "is_short"),
    [
        (" Iron", ("iron", "iron oxide"), True),
        ("iron", ("iron", "ironic"), True),  # within a word too
        ("iron", ("iron", "wood"), False),
        ("iron oxide", ("iron", "iron oxide"), False),
        ("iron\nsince", ("iron", "iron oxide"), False),
        ("A", ("air", "acid"), False),  # a letter
        ("", ("air", "acid"), False),
    ],
)
def test_what_may_go_on_as_another_choice(text: str, choices: tuple[str, ...], is_short: bool) -> None:
    assert is_cut_short(text, choices) == is_short


words = st.lists(st.sampled_from(["iron", "oxide", "gold", "box", "tin"]), min_size=1, max_size=3).map(" ".join)


@given(choices=st.lists(words, min_size=2, max_size=6, unique=True), data=st.data())
def test_a_choice_that_is_written_out_is_read(choices: list[str], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(choices) - 1))
    for written in (choices[index], f" {choices[index].upper()}.", f"\n{choices[index]}, since it is so\n{choices[0]}"):
        assert parse_choice(written, choices) == index
    assert parse_choice(f" {'ABCDEF'[index]}.\n", choices) == index


@given(text=st.text(), choices=st.lists(st.text(min_size=1), min_size=2, max_size=26))
def test_any_text_can_be_parsed(text: str, choices: list[str]) -> None:
    assert -1 <= parse_choice(text, choices) < len(choices)


def test_a_letter_that_was_not_shown_names_nothing() -> None:
    found = [parse_choice(text, METALS, lettered=False) for text in ("B", "(C)", "B. iron", "B. wood", "gold")]
    assert found == [-1, -1, 0, -1, 3]
