"""Scores: log-likelihoods of each answer, without hooks.

Likelihoods are computed in parts, since a softmax over a vocabulary takes several times the memory of the logits.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int8, Int16, Int64
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ..models.device import input_device
from ..models.weights import plain_model
from .encoded import EncodedSample, pad_tokens, plan_batches

_PART_LOGITS = {"cpu": 2**18, "cuda": 2**24}
"""Number of logits per part: on a CPU as many as its cache holds, which is three times as fast."""


class Scores(NamedTuple):
    """A model's scores of each sample and of each choice: log-likelihoods, predictions and cross-entropies.

    The choices of all samples follow each other in order.
    """

    prediction: Int16[np.ndarray, " sample"]
    """Index of the choice with the highest log-likelihood, the first of equals; -1 for text."""
    prediction_per_token: Int16[np.ndarray, " sample"]
    """Index of the choice with the highest log-likelihood per token, the first of equals; -1 for text."""
    correct: Int8[np.ndarray, " sample"]
    """1 if `prediction` is the right choice, 0 if not; -1 for text."""
    correct_per_token: Int8[np.ndarray, " sample"]
    """1 if `prediction_per_token` is the right choice, 0 if not; -1 for text."""
    ce: Float64[np.ndarray, " sample"]
    """Mean negative log-likelihood of the tokens to be predicted, such as the right choice's; nats per token."""
    loglik: Float64[np.ndarray, " choice"]
    """Log-likelihood of the choice's tokens after the prompt, in nats."""
    loglik_per_token: Float64[np.ndarray, " choice"]
    """Log-likelihood of the choice divided by its number of tokens, in nats per token."""


def score(
    model: Any,
    samples: Sequence[EncodedSample],
    *,
    batch_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Return the choices' log-likelihoods in nats, predictions and their correctness, and samples' cross-entropies.

    Parameters
    ----------
    model
        A causal language model of transformers, with or without adapters, in evaluation mode.
    batch_tokens
        Maximum number of tokens in a batch, counted as if each choice had its own prompt.
    progress
        Called after each batch with the number of scored choices (or texts) and the number of all.

    Raises
    ------
    ValueError
        If the model is in training mode, or a log-likelihood isn't finite.

    Notes
    -----
    The prompt passes the model once and its choices continue from its key-value cache, if the model keeps a plain one
    for attention; otherwise each choice passes with its prompt. Both give the same number except for rounding (about
    1e-6 relative in float32). log softmax is computed in float32 whatever the model's dtype; sums are float64. ce of a
    choice item is eq. 10 of arXiv 2501.03152 with a one-hot p, divided by the number of tokens; exp(ce) is eq. 11.
    """
    if model.training:
        raise ValueError("the model is in training mode, where dropout changes the scores; call `model.eval()` first")
    forward = _Forward(model)
    counts = [max(len(sample.choices), 1) for sample in samples]
    logliks: list[float] = []
    for batch in score_batches(samples, batch_tokens=batch_tokens):
        if forward.shares_prompts and all(sample.choices for sample in samples[batch]):
            logliks += _score_shared(forward, samples[batch])
        else:
            logliks += _score_whole(forward, [pair for sample in samples[batch] for pair in _scored_sequences(sample)])
        if progress is not None:
            progress(len(logliks), sum(counts))
    return _make_scores(samples, np.split(np.array(logliks), np.cumsum(counts)[:-1]))


def score_batches(samples: Sequence[EncodedSample], *, batch_tokens: int) -> list[slice]:
    """Return slices of the samples, one per batch of at most `batch_tokens` tokens, as `score` runs them.

    Parts of the samples, split at the boundary of two batches, give the same batches.
    """
    # Each choice counts as if it had its own prompt, padded.
    lengths = [[len(token_ids) for token_ids, _ in _scored_sequences(sample)] for sample in samples]
    return plan_batches([len(own) * max(own) for own in lengths], batch_tokens=batch_tokens)


def join_scores(parts: Sequence[Scores]) -> Scores:
    """Concatenate the scores of consecutive parts of the samples into the scores of all."""
    return Scores(*map(np.concatenate, zip(*parts, strict=True)))


class _Forward:
    """Callable that runs a model's forward pass with only the arguments that the model accepts."""

    def __init__(self, model: Any) -> None:
        """Look up the model's arguments, and find by a pass of one token if choices can share a prompt's cache."""
        self._model, self._device = model, input_device(model)
        self._accepts = set(inspect.signature(plain_model(model).forward).parameters)
        # transformers renamed it in 5.24, both as an input and as an output.
        self.cache_name = "cache" if "cache" in self._accepts else "past_key_values"
        self.shares_prompts = False
        """Whether the cache is a plain one of keys and values, which several continuations can start from."""
        if "position_ids" in self._accepts:
            with torch.no_grad():
                outputs = self(input_ids=torch.zeros((1, 1), dtype=torch.int64), use_cache=True, keep=1)
            cache, plain = getattr(outputs, self.cache_name, None), (DynamicLayer, DynamicSlidingWindowLayer)
            self.shares_prompts = type(cache) is DynamicCache and all(type(layer) in plain for layer in cache.layers)

    def __call__(self, *, keep: Tensor | int, **inputs: Any) -> Any:
        """Run the model; return its output with logits (sequence, position, vocabulary) at positions `keep` only.

        If `keep` is a number, these are the last positions.
        """
        if "logits_to_keep" in self._accepts:
            inputs["logits_to_keep"] = keep
        inputs = {
            name: value.to(self._device) if isinstance(value, Tensor) else value for name, value in inputs.items()
        }
        outputs = self._model(**inputs)
        if "logits_to_keep" not in self._accepts:
            outputs.logits = outputs.logits[:, keep if isinstance(keep, Tensor) else slice(-keep, None)]
        return outputs


def _scored_sequences(sample: EncodedSample) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (token ids, positions to score): one pair per choice after its prompt, or one without choices."""
    if not sample.choices:
        yield sample.token_ids, np.flatnonzero(sample.is_target)
    for choice in sample.choices:
        whole = np.concatenate([sample.token_ids[: sample.n_context], choice.token_ids])
        yield whole, np.arange(sample.n_context, len(whole))


@torch.no_grad()
def _score_whole(forward: _Forward, sequences: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """Return the log-likelihood, in nats, of each sequence's scored tokens, by one forward pass over all."""
    input_ids, attention_mask = pad_tokens([token_ids for token_ids, _ in sequences])
    first = int(min(targets[0] for _, targets in sequences)) - 1
    keep = torch.arange(first, input_ids.shape[1] - 1)
    outputs = forward(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, keep=keep)
    return [
        _loglik(logits, targets - 1 - first, token_ids[targets])
        for logits, (token_ids, targets) in zip(outputs.logits, sequences, strict=True)
    ]


@torch.no_grad()
def _score_shared(forward: _Forward, samples: Sequence[EncodedSample]) -> list[float]:
    """Return the log-likelihoods of all choices in nats, by one pass over prompts and one over choices.

    The second pass starts from the prompts' key-value cache.
    """
    choices = [choice.token_ids for sample in samples for choice in sample.choices]
    owner = torch.tensor([row for row, sample in enumerate(samples) for _ in sample.choices])
    input_ids, attention_mask = pad_tokens([sample.token_ids[: sample.n_context] for sample in samples], left=True)
    positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    prompt = forward(input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=True, keep=1)
    after_prompt = prompt.logits[owner]
    # The last token of a choice predicts nothing, so that choices of one token need no second pass.
    if max(len(choice) for choice in choices) == 1:
        return [_loglik(logits, np.arange(1), choice) for logits, choice in zip(after_prompt, choices, strict=True)]
    cache = getattr(prompt, forward.cache_name)
    cache.batch_select_indices(owner.to(after_prompt.device))
    choice_ids, choice_mask = pad_tokens([choice[:-1] for choice in choices])
    outputs = forward(
        input_ids=choice_ids,
        attention_mask=torch.cat([attention_mask[owner], choice_mask], dim=1),
        position_ids=positions[owner, -1:] + 1 + torch.arange(choice_ids.shape[1]),
        use_cache=True,
        keep=choice_ids.shape[1],
        **{forward.cache_name: cache},
    )
    return [
        _loglik(torch.cat([first, others[: len(choice) - 1]]), np.arange(len(choice)), choice)
        for first, others, choice in zip(after_prompt, outputs.logits, choices, strict=True)
    ]


def _loglik(logits: Tensor, rows: Int64[np.ndarray, " position"], token_ids: Int64[np.ndarray, " position"]) -> float:
    """Return the sum of the tokens' log-likelihoods in nats; `rows` has the row of the logits that predicts each."""
    where, ids = (torch.as_tensor(values, device=logits.device) for values in (rows, token_ids))
    return -float(token_nll(logits, where, ids).double().sum())


def _make_scores(samples: Sequence[EncodedSample], logliks: Sequence[Float64[np.ndarray, " _"]]) -> Scores:
    """Return `Scores` from each sample's log-likelihoods (choice,); raise ValueError if one isn't finite."""
    for sample, values in zip(samples, logliks, strict=True):
        if not np.isfinite(values).all():
            raise ValueError(
                f"sample {sample.id!r}: the log-likelihoods are {values.tolist()!r}, not all finite; "
                "in float16 models overflow, so load it in bfloat16 or float32; `lorascope plan` says whether its "
                "weights are finite"
            )
    per_token = [
        values / ([len(choice.token_ids) for choice in sample.choices] or [sample.is_target.sum()])
        for sample, values in zip(samples, logliks, strict=True)
    ]
    answers = np.array([sample.answer for sample in samples])
    # Equal choices are equally likely, but rounding may differ between the rows of a batch.
    logliks = [
        v[_first_equal_choices(sample)] if sample.choices else v for sample, v in zip(samples, logliks, strict=True)
    ]
    columns = {"ce": np.array([-values[answer] for answer, values in zip(answers, per_token, strict=True)])}
    for ending, by_sample in (("", logliks), ("_per_token", per_token)):
        pairs = [*zip(samples, by_sample, strict=True)]
        best = np.array([int(np.argmax(v)) if sample.choices else -1 for sample, v in pairs], dtype=np.int16)
        columns[f"prediction{ending}"] = best
        columns[f"correct{ending}"] = np.where(best < 0, -1, best == answers).astype(np.int8)
        columns[f"loglik{ending}"] = np.concatenate([np.empty(0), *(v for sample, v in pairs if sample.choices)])
    return Scores(**columns)


def _first_equal_choices(sample: EncodedSample) -> list[int]:
    """Return, for each choice of a sample, the index of the first choice with the same token ids."""
    firsts: dict[bytes, int] = {}
    return [firsts.setdefault(choice.token_ids.tobytes(), place) for place, choice in enumerate(sample.choices)]


def token_nll(logits: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return tokens' negative log-likelihoods in nats, float32 (token,), from logits of any floating type.

    Parameters
    ----------
    logits
        Shape (row, token id).
    rows, ids
        Row of logits that predicts each token, and the token's id, int64 on the device of the logits.

    Notes
    -----
    log(sum_i exp(x_i - max x)) + max x - x_id; the sum is float32 in torch's cascade. `cross_entropy` adds its terms
    one after the other, which at 128,256 token ids made it up to 2e-5 nat too low.
    """
    nll = torch.empty(len(rows), dtype=torch.float32, device=logits.device)
    for part in logit_parts(len(rows), logits):
        x = logits[rows[part]].float()  # a copy, which is overwritten
        top, own = x.amax(-1, keepdim=True), x.gather(-1, ids[part, None])
        depth = (top.double() - own)[:, 0]
        nll[part] = (x.sub_(top).exp_().sum(-1).double().log() + depth).float()
    return nll


def logits_per_part(device: torch.device) -> int:
    """Return the number of logits to compute at a time on a device, so that temporaries stay small."""
    return _PART_LOGITS.get(device.type, 2**22)


def logit_parts(n_tokens: int, logits: torch.Tensor) -> Iterator[slice]:
    """Return slices of `n_tokens` tokens, each small enough to compute all its logits (..., token id) at once."""
    step = max(1, logits_per_part(logits.device) // logits.shape[-1])
    return (slice(start, min(start + step, n_tokens)) for start in range(0, n_tokens, step))


def draw_ids(probability: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return ids int64 (token, draw), each the first at which the cumulated probability exceeds its uniform number.

    `probability` is float64 (token, token id) and `uniforms` are (token, draw), in [0, 1).
    """
    cumulated = probability.cumsum(-1)
    ids = torch.searchsorted(cumulated, uniforms * cumulated[:, -1:], right=True)
    return ids.clamp_(max=probability.shape[-1] - 1)
