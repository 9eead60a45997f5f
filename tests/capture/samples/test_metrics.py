"""The paper's metrics against transformers' own loss: CE (eq. 10), PPL (eq. 11) and the choices' log-likelihoods."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from lorascope.capture.samples.encode import EncodedSample, encode_items
from lorascope.capture.samples.items import ChoiceItem, TextItem
from lorascope.capture.samples.scoring import score

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def llama(vocab_size: int) -> Any:
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, initializer_range=0.2, **SIZES))


def phi3(vocab_size: int) -> Any:
    return Phi3ForCausalLM(Phi3Config(vocab_size=vocab_size, initializer_range=0.2, pad_token_id=2, **SIZES))


def gpt2(vocab_size: int) -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2))


@pytest.fixture(params=[llama, phi3, gpt2])
def model(request: pytest.FixtureRequest, tiny_tokenizer: Any) -> Any:
    make: Callable[[int], Any] = request.param
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(len(tiny_tokenizer)).eval()


@pytest.fixture
def questions(tiny_tokenizer: Any, tiny_items: list[ChoiceItem]) -> list[EncodedSample]:
    return encode_items(tiny_items, tiny_tokenizer, max_length=256, window_tokens=32)


@pytest.fixture
def windows(tiny_tokenizer: Any) -> list[EncodedSample]:
    text = TextItem(id="t", dataset="d", split="", text="Where the four questions are, the answer is near.")
    return encode_items([text], tiny_tokenizer, max_length=256, window_tokens=16)


@torch.inference_mode()
def own_loss(model: Any, token_ids: np.ndarray, n_context: int) -> float:
    """Mean negative log-likelihood of the tokens after the first `n_context`, as the model itself computes it."""
    input_ids = torch.from_numpy(token_ids)[None]
    labels = input_ids.clone()
    labels[0, :n_context] = -100
    return float(model(input_ids=input_ids, labels=labels).loss)


def own_losses(model: Any, questions: list[EncodedSample]) -> list[float]:
    """Of every choice of every question, after its prompt."""
    return [
        own_loss(model, np.concatenate([sample.token_ids[: sample.n_context], choice.token_ids]), sample.n_context)
        for sample in questions
        for choice in sample.choices
    ]


def test_questions(model: Any, questions: list[EncodedSample]) -> None:
    scores = score(model, questions, batch_tokens=1000)
    losses = np.array(own_losses(model, questions))
    np.testing.assert_allclose(scores.loglik_per_token, -losses, rtol=5e-6)
    np.testing.assert_allclose(scores.loglik, -losses * scores.n_tokens, rtol=5e-6)
    gold = [losses[scores.sample == index][sample.answer] for index, sample in enumerate(questions)]
    np.testing.assert_allclose(scores.ce, gold, rtol=5e-6)


def test_text(model: Any, windows: list[EncodedSample]) -> None:
    scores = score(model, windows, batch_tokens=1000)
    losses = np.array([own_loss(model, sample.token_ids, 1) for sample in windows])
    np.testing.assert_allclose(scores.ce, losses, rtol=5e-6)
    np.testing.assert_allclose(np.exp(scores.ce), np.exp(losses), rtol=5e-5)


def test_text_in_bfloat16(model: Any, windows: list[EncodedSample]) -> None:
    """Alone in their batches the windows pass just as they do for the loss, which also widens logits to float32."""
    model = model.to(torch.bfloat16)
    scores = score(model, windows, batch_tokens=1)
    np.testing.assert_allclose(scores.ce, [own_loss(model, s.token_ids, 1) for s in windows], rtol=1e-6)


def test_questions_in_bfloat16(model: Any, questions: list[EncodedSample]) -> None:
    """Choices go on from their prompt's cache, which rounds in another order than whole sequences do.

    Both are roundings of one number, that of the same weights in float32: ours may be no farther from it than twice the
    farthest of the model's own, and so no farther from these than three times that.
    """
    model = model.to(torch.bfloat16)
    scores, losses = score(model, questions, batch_tokens=1000), np.array(own_losses(model, questions))
    exact = np.array(own_losses(model.float(), questions))
    spread = np.abs(losses - exact).max()
    assert spread > 1e-4  # bfloat16 it was
    assert np.abs(-scores.loglik_per_token - exact).max() < 2 * spread
    assert np.abs(-scores.loglik_per_token - losses).max() < 3 * spread
