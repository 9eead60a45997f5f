import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from transformers import (
    BertConfig,
    BertModel,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.encoded import CHOICE, GENERATED, PROMPT, EncodedSample
from lorascope.capture.samples.generate import Answer, generate, is_ambiguous_prefix, parse_choice, write_answers
from lorascope.capture.samples.items import ChoiceItem

N = 8


def gpt2(vocab_size: int) -> Any:
    shape = {"vocab_size": vocab_size, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    config = GPT2Config(**shape, initializer_range=0.2, bos_token_id=0, eos_token_id=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).eval()


def prompts_of(samples: list[EncodedSample]) -> list[np.ndarray]:
    return [sample.token_ids[: sample.n_context] if sample.choices else sample.token_ids for sample in samples]


def by_hand(model: Any, prompt: np.ndarray) -> list[int]:
    """New tokens from the definition: whole sequences, the largest logit, until a text ends."""
    ids = prompt.tolist()
    with torch.inference_mode():
        for _ in range(N):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] == 1:
                break
    return ids[len(prompt) :]


@pytest.mark.parametrize(("architecture", "batch_tokens"), [("llama", 250), ("llama", 1), ("gpt2", 100_000)])
def test_tokens_are_those_of_the_definition(
    architecture: str,
    batch_tokens: int,
    tiny_model: Any,
    tiny_tokenizer: Any,
    samples: list[EncodedSample],
    text_samples: list[EncodedSample],
) -> None:
    model = tiny_model if architecture == "llama" else gpt2(len(tiny_tokenizer))
    mixed = [*samples[:3], *text_samples, *samples[3:]]
    prompts = prompts_of(mixed)
    assert len({len(prompt) for prompt in prompts}) > 3  # so that batches are padded
    found = generate(model, mixed, n=N, batch_tokens=batch_tokens)
    written = [one.token_ids[len(prompt) :].tolist() for one, prompt in zip(found, prompts, strict=True)]
    assert written == [by_hand(model, prompt) for prompt in prompts]
    assert len({tuple(tokens) for tokens in written}) > 1


def test_prompts_stay_and_new_tokens_have_their_role(
    tiny_model: Any, samples: list[EncodedSample], text_samples: list[EncodedSample]
) -> None:
    mixed = [*samples, *text_samples]
    calls: list[tuple[int, int]] = []
    found = generate(tiny_model, mixed, n=3, batch_tokens=1, progress=lambda *call: calls.append(call))
    assert calls == [(place + 1, len(mixed)) for place in range(len(mixed))]
    for prompt, before, after in zip(prompts_of(mixed), mixed, found, strict=True):
        n = len(prompt)
        np.testing.assert_array_equal(after.token_ids[:n], prompt)
        np.testing.assert_array_equal(after.roles[:n], before.roles[:n])
        assert 1 <= len(after.token_ids) - n <= 3
        assert set(after.roles[n:]) == {GENERATED}
        assert (after.token_ids.dtype, after.roles.dtype) == (np.int64, np.uint8)
        kept = ("id", "choices", "answer", "prompt")
        assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
        if before.choices:
            assert set(after.roles) == {PROMPT, CHOICE, GENERATED}


def test_a_text_that_ends_keeps_its_end_as_last_token(tiny_model: Any, samples: list[EncodedSample]) -> None:
    free = generate(tiny_model, samples, n=N, batch_tokens=10_000)
    prompts = prompts_of(samples)
    written = [one.token_ids[len(prompt) :].tolist() for one, prompt in zip(free, prompts, strict=True)]
    # What one sample writes third ends texts from now on, and so does a token that nothing writes.
    end, unused = written[0][2], next(i for i in range(250) if not any(i in tokens for tokens in written))
    tiny_model.generation_config.eos_token_id = [unused, end]
    ended = generate(tiny_model, samples, n=N, batch_tokens=10_000)
    cut = [tokens[: tokens.index(end) + 1] if end in tokens else tokens for tokens in written]
    assert [one.token_ids[len(prompt) :].tolist() for one, prompt in zip(ended, prompts, strict=True)] == cut
    assert len(cut[0]) < N
    assert {len(tokens) for tokens in cut} != {len(cut[0])}


def test_the_configurations_end_counts_where_no_other_is_given(tiny_model: Any, samples: list[EncodedSample]) -> None:
    first = generate(tiny_model, samples[:1], n=1, batch_tokens=1000)[0].token_ids[-1]
    tiny_model.generation_config = GenerationConfig()
    for end, n_written in ((int(first), 1), (None, N)):
        tiny_model.config.eos_token_id = end
        (found,) = generate(tiny_model, samples[:1], n=N, batch_tokens=1000)
        assert len(found.token_ids) == len(prompts_of(samples)[0]) + n_written


def test_settings_of_a_checkpoint_are_left_out_and_left_as_they_were(
    tiny_model: Any, samples: list[EncodedSample]
) -> None:
    expected = generate(tiny_model, samples, n=N, batch_tokens=500)
    others = {"do_sample": True, "temperature": 0.7, "repetition_penalty": 5.0, "num_beams": 3, "max_length": 9}
    tiny_model.generation_config = own = GenerationConfig(**others, eos_token_id=1)
    state = torch.random.get_rng_state()
    for one, other in zip(generate(tiny_model, samples, n=N, batch_tokens=500), expected, strict=True):
        np.testing.assert_array_equal(one.token_ids, other.token_ids)
    assert tiny_model.generation_config is own
    assert torch.equal(torch.random.get_rng_state(), state)
    tiny_model.model.layers[0].mlp.forward = None  # whatever goes wrong inside
    with pytest.raises(TypeError):
        generate(tiny_model, samples, n=N, batch_tokens=500)
    assert tiny_model.generation_config is own


def test_an_adapter_counts_where_it_is_active(tiny_model: Any, tiny_adapter: Any, samples: list[EncodedSample]) -> None:
    bare = [one.token_ids.tolist() for one in generate(tiny_model, samples, n=N, batch_tokens=500)]
    model = PeftModel.from_pretrained(tiny_model, tiny_adapter).eval()
    adapted = [one.token_ids.tolist() for one in generate(model, samples, n=N, batch_tokens=500)]
    prompts = prompts_of(samples)
    assert adapted == [prompt.tolist() + by_hand(model, prompt) for prompt in prompts]
    assert adapted != bare
    with model.disable_adapter():
        assert [one.token_ids.tolist() for one in generate(model, samples, n=N, batch_tokens=500)] == bare


def test_the_context_is_respected(
    tiny_model: Any, samples: list[EncodedSample], text_samples: list[EncodedSample]
) -> None:
    longest = max(len(prompt) for prompt in prompts_of(samples))
    tiny_model.config.max_position_embeddings = longest + 2
    assert generate(tiny_model, samples, n=2, batch_tokens=1000)
    words = f"prompt of {longest} tokens and 3 new ones don't fit the context of {longest + 2}; .* shorter prompts"
    with pytest.raises(ValueError, match=words):
        generate(tiny_model, samples, n=3, batch_tokens=1000)
    tiny_model.config.max_position_embeddings = 16
    with pytest.raises(ValueError, match="sample 't:0': its window of 16 tokens and 1 new ones .* shorter windows"):
        generate(tiny_model, text_samples, n=1, batch_tokens=1000)
    tiny_model.config.max_position_embeddings = 0  # a model that states no limit
    assert generate(tiny_model, text_samples, n=1, batch_tokens=1000)


def test_refuses_what_makes_no_sense(tiny_model: Any, samples: list[EncodedSample]) -> None:
    encoder = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
    with pytest.raises(ValueError, match="a BertModel can't generate text; capture without `generate`"):
        generate(encoder.eval(), samples, n=1, batch_tokens=1000)
    with pytest.raises(ValueError, match=r"in training mode.* call `model.eval\(\)` first"):
        generate(tiny_model.train(), samples, n=1, batch_tokens=1000)


def test_refuses_logits_that_are_no_numbers(tiny_model: Any, samples: list[EncodedSample]) -> None:
    # Those of a token that stands in the second prompt alone: its neighbours in the batch are sound.
    others = {token for place, sample in enumerate(samples) if place != 1 for token in sample.token_ids.tolist()}
    broken = next(token for token in prompts_of(samples)[1].tolist() if token not in others)
    tiny_model.model.embed_tokens.weight.data[broken] = torch.nan
    with pytest.raises(ValueError, match="^sample 'b': what the model writes isn't known, its logits aren't numbers"):
        generate(tiny_model, samples, n=2, batch_tokens=10_000)


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
        ("same", ("same", "Same."), -1),  # alike, so that only a letter can name one
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
    assert is_ambiguous_prefix(text, choices) == is_short


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
