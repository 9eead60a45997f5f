import itertools
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lorascope.capture.samples.answers import Answer, write_answers
from lorascope.capture.samples.encode import EncodedSample, encode_items
from lorascope.capture.samples.items import ChoiceItem


@pytest.fixture
def samples(tiny_tokenizer: Any, tiny_items: list[ChoiceItem]) -> list[EncodedSample]:
    return encode_items(tiny_items, tiny_tokenizer, max_length=256, window_tokens=32)


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
