"""Scores against transformers' own loss: CE (eq. 10), PPL (eq. 11) and the choices' log-likelihoods."""

import inspect
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from peft import PeftModel
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

from lorascope.capture.samples import scoring
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.encoded import EncodedChoice, EncodedSample
from lorascope.capture.samples.items import ChoiceItem
from lorascope.capture.samples.scoring import join_scores, score, score_batches, token_nll


def seeded(cls: Any, config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cls(config).eval()


def loglik_by_loss(model: Any, prompt: np.ndarray, answer: np.ndarray) -> float:
    """Log-likelihood by transformers' own loss, one sequence at a time."""
    input_ids = torch.from_numpy(np.concatenate([prompt, answer]))[None]
    labels = input_ids.clone()
    labels[0, : len(prompt)] = -100
    with torch.inference_mode():
        return -float(model(input_ids=input_ids, labels=labels).loss) * len(answer)


def expected_logliks(model: Any, samples: list[EncodedSample]) -> np.ndarray:
    pairs = [(sample, choice) for sample in samples for choice in sample.choices]
    return np.array([loglik_by_loss(model, s.token_ids[: s.n_context], choice.token_ids) for s, choice in pairs])


def text_losses(model: Any, samples: list[EncodedSample]) -> list[float]:
    ids = [sample.token_ids for sample in samples]
    return [-loglik_by_loss(model, one[:1], one[1:]) / (len(one) - 1) for one in ids]


def test_tables_follow_from_the_logliks(tiny_model: Any, samples: list[EncodedSample]) -> None:
    scores = score(tiny_model, samples, batch_tokens=1000)
    cuts = np.cumsum([len(sample.choices) for sample in samples])[:-1]
    n_tokens = [len(choice.token_ids) for sample in samples for choice in sample.choices]
    np.testing.assert_array_equal(scores.loglik_per_token, scores.loglik / n_tokens)
    for index, (sample, logliks, per_token) in enumerate(
        zip(samples, np.split(scores.loglik, cuts), np.split(scores.loglik_per_token, cuts), strict=True)
    ):
        best, best_per_token = logliks.argmax(), per_token.argmax()
        assert (scores.prediction[index], scores.prediction_per_token[index]) == (best, best_per_token)
        assert scores.correct[index] == (best == sample.answer)
        assert scores.correct_per_token[index] == (best_per_token == sample.answer)
        assert scores.ce[index] == -per_token[sample.answer]
    assert [column.dtype for column in scores] == [np.int16, np.int16, np.int8, np.int8, *[np.float64] * 3]
    # Otherwise the two ways of predicting, and hits and misses, would not be distinguished above.
    assert (scores.prediction != scores.prediction_per_token).any()
    assert set(scores.correct.tolist()) == {0, 1}


def test_of_equal_choices_the_first_is_the_prediction(tiny_model: Any, tiny_tokenizer: Any) -> None:
    """However many there are in a batch, whose rows may differ by their rounding."""
    choices = ("no", "the fourth", "no", "the fourth", "yes it is", "no")
    items = [
        ChoiceItem(id=str(i), dataset="d", split="", question=f"{i} " * (i + 1), choices=choices, answer=3)
        for i in range(8)
    ]
    samples = encode_items(items, tiny_tokenizer, max_length=256, window_tokens=32)
    scores = score(tiny_model, samples, batch_tokens=100_000)
    for logliks in np.split(scores.loglik, len(samples)):
        assert logliks[0] == logliks[2] == logliks[5]
        assert logliks[1] == logliks[3]
    assert set(scores.prediction.tolist()) <= {0, 1, 4}
    assert not scores.correct.any()  # the right one is the second of two


def test_likelihoods_that_tie_by_chance_go_to_the_first(samples: list[EncodedSample]) -> None:
    (sample,) = samples[:1]
    choices = tuple(EncodedChoice(text=str(token), token_ids=np.array([token])) for token in (3, 4, 5))
    scores = scoring._make_scores([replace(sample, choices=choices, answer=2)], [np.array([-2.0, -1.0, -1.0])])
    assert (scores.prediction.tolist(), scores.prediction_per_token.tolist(), scores.correct.tolist()) == (
        [1],
        [1],
        [0],
    )


def test_text_is_scored_on_all_but_the_first_token(tiny_model: Any, text_samples: list[EncodedSample]) -> None:
    scores = score(tiny_model, text_samples, batch_tokens=1000)
    np.testing.assert_allclose(scores.ce, text_losses(tiny_model, text_samples), rtol=2e-6)
    for column in (scores.prediction, scores.prediction_per_token, scores.correct, scores.correct_per_token):
        assert column.tolist() == [-1] * len(text_samples)
    assert len(scores.loglik) == len(scores.loglik_per_token) == 0


def test_texts_and_choice_samples_score_together_as_apart(
    tiny_model: Any, samples: list[EncodedSample], text_samples: list[EncodedSample]
) -> None:
    mixed = score(tiny_model, [*samples[:3], *text_samples, *samples[3:]], batch_tokens=100_000)
    texts, choices = (score(tiny_model, s, batch_tokens=100_000) for s in (text_samples, samples))
    np.testing.assert_allclose(mixed.ce, np.concatenate([choices.ce[:3], texts.ce, choices.ce[3:]]), rtol=2e-6)
    np.testing.assert_allclose(mixed.loglik, choices.loglik, rtol=2e-6)


@pytest.mark.parametrize("batch_tokens", [1, 100_000])
def test_batches_change_nothing_but_rounding(tiny_model: Any, samples: list[EncodedSample], batch_tokens: int) -> None:
    scores = score(tiny_model, samples, batch_tokens=batch_tokens)
    np.testing.assert_allclose(scores.loglik, expected_logliks(tiny_model, samples), rtol=2e-6)


def test_parts_between_batches_give_the_bits_of_the_whole(tiny_model: Any, samples: list[EncodedSample]) -> None:
    whole = score(tiny_model, samples, batch_tokens=700)
    cut = score_batches(samples, batch_tokens=700)[1].start
    parts = [score(tiny_model, part, batch_tokens=700) for part in (samples[:cut], samples[cut:])]
    for one, other in zip(join_scores(parts), whole, strict=True):
        np.testing.assert_array_equal(one, other)


def gpt2(vocab_size: int) -> Any:
    config = GPT2Config(vocab_size=vocab_size, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.2)
    return seeded(GPT2LMHeadModel, config)


def mistral(vocab_size: int) -> Any:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"vocab_size": vocab_size, "num_key_value_heads": 2, "sliding_window": 16}
    return seeded(MistralForCausalLM, MistralConfig(**shape, initializer_range=0.2))


def mamba(vocab_size: int) -> Any:
    return seeded(MambaForCausalLM, MambaConfig(vocab_size=vocab_size, hidden_size=32, num_hidden_layers=2))


@pytest.mark.parametrize(("make", "shares"), [(gpt2, True), (mistral, True), (mamba, False)])
def test_other_models_score_alike(
    make: Any, shares: bool, tiny_tokenizer: Any, samples: list[EncodedSample], text_samples: list[EncodedSample]
) -> None:
    model = make(len(tiny_tokenizer))
    assert scoring._Forward(model).shares_prompts is shares
    found = score(model, samples, batch_tokens=1000).loglik
    np.testing.assert_allclose(found, expected_logliks(model, samples), rtol=1e-5)
    assert np.isfinite(score(model, text_samples, batch_tokens=1000).ce).all()


class _Bare(torch.nn.Module):
    """A model that takes neither `logits_to_keep` nor positions."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, use_cache: bool) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)


def test_a_plainer_model_gets_whole_sequences(
    tiny_model: Any, samples: list[EncodedSample], text_samples: list[EncodedSample]
) -> None:
    bare = _Bare(tiny_model).eval()
    assert "logits_to_keep" in inspect.signature(tiny_model.forward).parameters
    found, expected = (score(one, [*samples, *text_samples], batch_tokens=1000) for one in (bare, tiny_model))
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-6)


class _Older(_Bare):
    """A model that puts all logits out and calls its cache `past_key_values`, as before transformers 5.24."""

    def forward(self, input_ids: Any, position_ids: Any = None, past_key_values: Any = None, **others: Any) -> Any:
        outputs = self.model(input_ids=input_ids, position_ids=position_ids, cache=past_key_values, **others)
        return SimpleNamespace(logits=outputs.logits, past_key_values=outputs.cache)


def test_an_older_model_scores_alike(tiny_model: Any, samples: list[EncodedSample]) -> None:
    model = _Older(tiny_model).eval()
    assert scoring._Forward(model).shares_prompts
    expected = score(tiny_model, samples, batch_tokens=1000)
    np.testing.assert_allclose(score(model, samples, batch_tokens=1000).loglik, expected.loglik, rtol=2e-6)


def test_choices_of_one_token_need_one_pass(tiny_model: Any, tiny_tokenizer: Any) -> None:
    asked = {"dataset": "d", "split": "", "choices": ("the", "four"), "answer": 0}
    items = [ChoiceItem(id=question, question=question, **asked) for question in ("One?", "Which of them?")]
    samples = encode_items(items, tiny_tokenizer, max_length=256, window_tokens=8)
    assert {len(choice.token_ids) for sample in samples for choice in sample.choices} == {1}
    calls = []
    handle = tiny_model.register_forward_pre_hook(lambda *_: calls.append(1))
    scores = score(tiny_model, samples, batch_tokens=1000)
    handle.remove()
    assert len(calls) == 2  # the probe of the cache and the prompts
    np.testing.assert_allclose(scores.loglik, expected_logliks(tiny_model, samples), rtol=2e-6)


def test_text_in_bfloat16(tiny_model: Any, text_samples: list[EncodedSample]) -> None:
    """Alone in their batches the windows pass just as they do for the loss, which also widens logits to float32."""
    scores = score(tiny_model.to(torch.bfloat16), text_samples, batch_tokens=1)
    np.testing.assert_allclose(scores.ce, text_losses(tiny_model, text_samples), rtol=1e-6)


def test_questions_in_bfloat16(tiny_model: Any, samples: list[EncodedSample]) -> None:
    """Choices go on from their prompt's cache, which rounds in another order than whole sequences do.

    Both are roundings of one number, that of the same weights in float32: ours may be no farther from it than twice the
    farthest of the model's own.
    """
    model = tiny_model.to(torch.bfloat16)
    ours, own = score(model, samples, batch_tokens=1000).loglik_per_token, expected_logliks(model, samples)
    n_tokens = [len(choice.token_ids) for sample in samples for choice in sample.choices]
    exact = expected_logliks(model.float(), samples) / n_tokens
    spread = np.abs(own / n_tokens - exact).max()
    assert spread > 1e-4  # bfloat16 it was
    assert np.abs(ours - exact).max() < 2 * spread
    # Ten significant bits would show as many equal last digits: log softmax is float32 whatever the model.
    assert len(np.unique(ours % 2**-12)) > 1


def test_an_adapter_counts_when_it_is_active(tiny_model: Any, tiny_adapter: Any, samples: list[EncodedSample]) -> None:
    bare = score(tiny_model, samples, batch_tokens=1000)
    model = PeftModel.from_pretrained(tiny_model, tiny_adapter).eval()
    adapted = score(model, samples, batch_tokens=1000)
    np.testing.assert_allclose(adapted.loglik, expected_logliks(model, samples), rtol=2e-6)
    assert (np.abs(adapted.loglik - bare.loglik) > 1e-3).any()
    with model.disable_adapter():
        np.testing.assert_allclose(score(model, samples, batch_tokens=1000).loglik, bare.loglik, rtol=2e-6)


def test_weights_may_lie_elsewhere(tiny_model: Any, samples: list[EncodedSample]) -> None:
    expected = score(tiny_model, samples, batch_tokens=1000)
    cpu_offload(tiny_model, execution_device=torch.device("cpu"))
    assert next(tiny_model.parameters()).is_meta
    np.testing.assert_array_equal(score(tiny_model, samples, batch_tokens=1000).loglik, expected.loglik)


def test_progress_counts_choices(
    tiny_model: Any, samples: list[EncodedSample], text_samples: list[EncodedSample]
) -> None:
    calls: list[tuple[int, int]] = []
    score(tiny_model, [*samples, *text_samples], batch_tokens=1, progress=lambda *call: calls.append(call))
    counts = [len(sample.choices) for sample in samples] + [1] * len(text_samples)
    assert calls == [(int(done), sum(counts)) for done in np.cumsum(counts)]


def test_refuses_training_mode(tiny_model: Any, samples: list[EncodedSample]) -> None:
    with pytest.raises(ValueError, match=r"in training mode.* call `model.eval\(\)` first"):
        score(tiny_model.train(), samples, batch_tokens=1000)


def test_refuses_logliks_that_are_not_finite(tiny_model: Any, samples: list[EncodedSample]) -> None:
    tiny_model.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"sample 'a': the log-likelihoods are \[nan, nan\], not all finite"):
        score(tiny_model, samples, batch_tokens=1000)


@pytest.mark.parametrize("shift", [0, 20])
@pytest.mark.parametrize("scale", [4, 8])
def test_nll_in_float32_is_that_of_float64(scale: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(24, 128256, generator=generator) * scale + shift  # the vocabulary of Llama 3
    exact = logits.double().log_softmax(-1)
    ids = torch.multinomial(exact.exp(), 1, generator=generator)[:, 0]
    expected = -exact.gather(-1, ids[:, None])[:, 0]
    error = token_nll(logits, torch.arange(24), ids).double() - expected
    # In roundings of 2^-24: each exponent by its size, exp by two, a sum in three levels of 16 and 32 lanes by half of
    # 48 and 5, since it grows evenly; the result by its size.
    depth = (exact.exp() * (exact.amax(-1, keepdim=True) - exact)).sum(-1)
    assert (error.abs() < 2**-24 * (depth + 2 + 29 + expected)).all()
    # Errors of a number's last rounding have no sign: the mean of 24 is within five of its standard errors.
    assert abs(error.mean()) < 5 * 2**-23 * expected.max() / np.sqrt(12 * 24)


def test_nll_of_logits_that_are_not_finite() -> None:
    """Tokens that cannot come have minus infinity; what is larger than any number gives no answer."""
    logits = torch.tensor([[0.0, -torch.inf], [0.0, -torch.inf], [torch.inf, 0.0], [torch.nan, 0.0]])
    logits = torch.cat([logits, torch.full((1, 2), -torch.inf)])
    nll = token_nll(logits, torch.arange(5), torch.tensor([0, 1, 0, 0, 0]))
    np.testing.assert_array_equal(nll, [0, np.inf, np.nan, np.nan, np.nan])
    assert logits[0, 0] == 0  # the caller's logits stay as they are
