"""Greedy decoding: what the adapted model itself writes after a prompt or a text."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from transformers import GenerationConfig, LogitsProcessorList

from ..models.device import input_device
from ..models.model import context_length
from ..models.weights import plain_model
from .batches import PADDING_ID, pad_tokens, plan_batches
from .encode import GENERATED, EncodedSample

__all__ = ["generate", "generation_batches"]


def generate(
    model: Any,
    samples: Sequence[EncodedSample],
    *,
    n: int,
    batch_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[EncodedSample]:
    """Samples whose prompt, or window of text, is followed by what the model writes after it, at most n tokens.

    Parameters
    ----------
    model
        A causal language model of transformers in evaluation mode; an adapter counts where it is active.
    samples
        Choice items go on from their prompt, without the right answer; a text from the end of its window.
    n
        Most new tokens of a sample. They have the role `generated`; the token with which a model ends its text is one.
    batch_tokens
        Most tokens of a batch, padding and new tokens included; a sample that is longer by itself stands alone.
    progress
        Called after each batch with the number of samples done and of all.

    Raises
    ------
    ValueError
        If there are no samples, n is below 1, the model is in training mode or can't generate, a sample and its n new
        tokens don't fit the model's context, or a logit isn't a number.

    Notes
    -----
    The most likely token each time, by nothing but the model's logits: penalties and other settings that come with a
    checkpoint are left out, its tokens that end a text are heeded. Batches are padded on the left. Float results differ
    by about 1e-6 with the batch that a sample sits in, so tokens are the same for the same batches, device type and
    thread count, and between others differ where two tokens are all but equally likely.
    """
    if not samples:
        raise ValueError("`samples` is empty; give at least one")
    if n < 1:
        raise ValueError(f"`n` is {n!r}; give at least 1 new token")
    if model.training:
        raise ValueError("the model is in training mode, where dropout changes the text; call `model.eval()` first")
    bare = plain_model(model)
    if not (hasattr(bare, "can_generate") and bare.can_generate()):
        raise ValueError(f"a {type(bare).__name__} can't generate text; capture without `generate` and `answer_tokens`")
    prompts = [_prompt(sample) for sample in samples]
    context = context_length(bare)
    for sample, prompt in zip(samples, prompts, strict=True):
        if context is not None and len(prompt) + n > context:
            what = "prompt" if sample.choices else "window"
            raise ValueError(
                f"sample {sample.id!r}: its {what} of {len(prompt)} tokens and {n} new ones don't fit the context of "
                f"{context}; generate fewer, or give shorter {what}s"
            )
    done: list[EncodedSample] = []
    with _greedy(bare, n) as ends:
        for batch in generation_batches(samples, n=n, batch_tokens=batch_tokens):
            written = _continue(bare, prompts[batch], ends, [sample.id for sample in samples[batch]])
            for sample, prompt, new in zip(samples[batch], prompts[batch], written, strict=True):
                roles = np.concatenate([sample.roles[: len(prompt)], np.full(len(new), GENERATED, np.uint8)])
                done.append(dataclasses.replace(sample, token_ids=np.concatenate([prompt, new]), roles=roles))
            if progress is not None:
                progress(len(done), len(samples))
    return done


def generation_batches(samples: Sequence[EncodedSample], *, n: int, batch_tokens: int) -> list[slice]:
    """Which samples `generate` passes together: a sequence cut between two of these comes to the same batches."""
    return plan_batches([len(_prompt(sample)) + n for sample in samples], batch_tokens=batch_tokens)


def _prompt(sample: EncodedSample) -> Int64[np.ndarray, " position"]:
    return sample.token_ids[: sample.n_context] if sample.choices else sample.token_ids


@contextmanager
def _greedy(model: Any, n: int) -> Iterator[tuple[int, ...]]:
    """The model's `generate` set to plain greedy decoding for a while; yields the ids that end a text."""
    own = model.generation_config
    ends = own.eos_token_id if own.eos_token_id is not None else model.config.get_text_config().eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or ())
    # Its own configuration would come in for whatever the call leaves open: penalties, beams, a longest text.
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]  # transformers leaves it so
        max_new_tokens=n, do_sample=False, eos_token_id=ends or None, pad_token_id=PADDING_ID
    )
    try:
        yield tuple(ends)
    finally:
        model.generation_config = own


@torch.inference_mode()
def _continue(
    model: Any, prompts: Sequence[np.ndarray], ends: tuple[int, ...], names: Sequence[str]
) -> list[np.ndarray]:
    """New tokens after each prompt, up to and with the first that ends a text; the samples' names are for errors."""

    def require_numbers(_: Any, logits: torch.Tensor) -> torch.Tensor:
        broken = logits.isnan().any(dim=1)
        if broken.any():  # the likeliest token would be the first of the vocabulary
            raise ValueError(
                f"sample {names[int(broken.int().argmax())]!r}: what the model writes can't be told, its logits aren't "
                "numbers; in float16 models overflow, so load it in bfloat16 or float32"
            )
        return logits

    device = input_device(model)
    input_ids, attention_mask = pad_tokens(prompts, left=True)
    inputs = {"input_ids": input_ids.to(device), "attention_mask": attention_mask.to(device)}
    output = model.generate(**inputs, logits_processor=LogitsProcessorList([require_numbers]))
    rows = output[:, input_ids.shape[1] :].cpu().numpy()
    return [row[: next(iter(np.flatnonzero(np.isin(row, ends))), len(row)) + 1] for row in rows]
