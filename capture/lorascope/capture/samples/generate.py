"""Texts that the model generates after a prompt by greedy decoding, and the choices that they name."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from transformers import GenerationConfig, LogitsProcessorList

from ..models.device import input_device
from ..models.model import context_length
from ..models.weights import plain_model
from .encoded import CHOICE, GENERATED, PADDING_ID, EncodedSample, pad_tokens, plan_batches
from .items import LETTERS
from .scoring import draw_ids

_OUTER = ",;:!?…\"'“”‘’„«»()[]{}*_` "  # noqa: RUF001  # quotes as they are typeset
"""Characters around an answer that aren't part of it, unlike signs and units (-3, .5, 5 %, C++)."""
_BEFORE = r"(?<![\w+/'’-])(?!(?<=[.,])\d)"  # noqa: RUF001
_AFTER = r"(?!\w)(?![+*/^'’-]\w)(?![.,]\d)"  # noqa: RUF001
"""Patterns for the start and the end of whole words: no match inside ironic, iron-free, can't, -3, 3/4 or 3.5."""


class Answer(NamedTuple):
    """A model's own answer to a multiple-choice question: the generated text, and the choice that it names."""

    written: str
    """The generated text, without special tokens."""
    prediction: int
    """Index of the choice that the text names; -1 if it names none. See `write_answers`."""


def generate(
    model: Any,
    samples: Sequence[EncodedSample],
    *,
    n: int,
    batch_tokens: int,
    progress: Callable[[int, int], None] | None = None,
    uniforms: Float64[np.ndarray, "sample token"] | None = None,
) -> list[EncodedSample]:
    """Generate at most n tokens after each sample's prompt, chat or window of text; return the samples with them.

    Decoding is greedy, or draws each token from the model's own distribution.

    Parameters
    ----------
    model
        A causal language model of transformers in evaluation mode; an active adapter is used.
    samples
        A question is continued after its prompt, without the right answer; a chat or completion before the last turn
        that is to be predicted; a text at the end of its window.
    n
        Maximum number of new tokens per sample, with the token that ends the text. Their role is `generated`.
    batch_tokens
        Maximum number of tokens in a batch, with padding and new tokens; a longer sample has its own batch.
    progress
        Called after each batch with the number of samples done and of all.
    uniforms
        Numbers in [0, 1) that draw each sample's n tokens; None for greedy decoding.

    Raises
    ------
    ValueError
        If the model is in training mode or can't generate, a sample and its n new tokens don't fit the model's context,
        or a logit isn't a number.

    Notes
    -----
    Every new token is the one with the largest logit; or, with `uniforms`, the first at which the cumulated softmax of
    all logits, in float64, exceeds the token's number: a draw at temperature 1, whatever else is in the batch.
    Penalties and other settings of the checkpoint aren't used, except its tokens that end a text. Batches are padded on
    the left. Float results of a sample differ by about 1e-6 between batches: tokens are the same for the same batches,
    device type and number of threads; otherwise they may differ if two tokens are almost equally likely, or if a drawn
    token's number is almost where another token begins.
    """
    if model.training:
        raise ValueError("the model is in training mode, where dropout changes the text; call `model.eval()` first")
    bare = plain_model(model)
    if not (hasattr(bare, "can_generate") and bare.can_generate()):
        raise ValueError(
            f"a {type(bare).__name__} can't generate text; capture without `generate`, `answer_tokens`, `replies` and "
            "a number of `neutral` texts"
        )
    prompts = [sample.token_ids[: sample.n_prefix] for sample in samples]
    context = context_length(bare)
    for sample, prompt in zip(samples, prompts, strict=True):
        if context is not None and len(prompt) + n > context:
            what = "window" if sample.prompt == "text" else "prompt"
            raise ValueError(
                f"sample {sample.id!r}: its {what} of {len(prompt)} tokens and {n} new ones don't fit the context of "
                f"{context}; generate fewer, or give shorter {what}s"
            )
    done: list[EncodedSample] = []
    with _plain_decoding(bare, n) as ends:
        for batch in generation_batches(samples, n=n, batch_tokens=batch_tokens):
            names, drawn = [sample.id for sample in samples[batch]], None if uniforms is None else uniforms[batch]
            written = _new_tokens(bare, prompts[batch], ends, names, drawn)
            done += [sample.continued_with(new) for sample, new in zip(samples[batch], written, strict=True)]
            if progress is not None:
                progress(len(done), len(samples))
    return done


def generation_batches(samples: Sequence[EncodedSample], *, n: int, batch_tokens: int) -> list[slice]:
    """Return slices of the samples, one per batch of at most `batch_tokens` tokens, as `generate` runs them.

    Parts of the samples, split at the boundary of two batches, give the same batches.
    """
    return plan_batches([sample.n_prefix + n for sample in samples], batch_tokens=batch_tokens)


def write_answers(
    model: Any,
    tokenizer: Any,
    samples: Sequence[EncodedSample],
    *,
    n: int,
    batch_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """Generate an answer to each multiple-choice question; return the texts and the choices that they name.

    Parameters and errors are those of `generate`, which writes the texts; `tokenizer` is the model's.

    Notes
    -----
    `parse_choice` finds the choice. An answer of n tokens without a token that ends the text was cut off: if it equals
    one choice and begins another ("iron", of iron and iron oxide), it names none.
    """
    extended = generate(model, samples, n=n, batch_tokens=batch_tokens, progress=progress)
    new = [sample.token_ids[sample.roles == GENERATED].tolist() for sample in extended]
    texts = tokenizer.batch_decode(new, skip_special_tokens=True)
    may_go_on = [len(ids) == n and ids[-1] not in tokenizer.all_special_ids for ids in new]
    answers = []
    for text, cut, sample in zip(texts, may_go_on, samples, strict=True):
        choices = [choice.text for choice in sample.choices]
        lettered = bool((sample.roles == CHOICE).any())  # the prompt lists them
        choice = -1 if cut and is_ambiguous_prefix(text, choices) else parse_choice(text, choices, lettered=lettered)
        answers.append(Answer(text, choice))
    return answers


def parse_choice(text: str, choices: Sequence[str], *, lettered: bool = True) -> int:
    """Return the index of the choice that a generated answer names; -1 if it names no choice.

    Parameters
    ----------
    text
        The text that a model generated after a prompt.
    choices
        The texts of the choices (choice,), 2 to 26 of them, with the letters A, B, ... in order.
    lettered
        Whether the prompt showed the letters; otherwise a letter names nothing.

    Notes
    -----
    The paper (arXiv 2501.03152) doesn't say how it reads an answer. Here only the first line that isn't blank counts.
    The first of these rules that applies decides:

    1. the line begins with the text of a choice; of several, the longest;
    2. the line begins with the letter of a choice and ".", ")" or ":" after it, or is only that letter, if the prompt
       showed letters;
    3. the line contains the text of exactly one choice, not counting texts inside the text of a longer choice.

    Case, runs of white space, and quotes, brackets and punctuation around line and choices are ignored. A text must
    begin and end with whole words: "iron" isn't in "ironic" or "iron-free", "3" isn't in "-3" or "3.5", and "can" isn't
    in "can't". An article isn't a letter: "A cat" names choice A only if that is its text. "B. iron" names B, whatever
    the text of B. Only a letter can name one of several choices that differ in case and punctuation only.

    Examples
    --------
    >>> choices = ("iron", "iron oxide", "wood")
    >>> [parse_choice(text, choices) for text in (" Iron oxide, of course.", "(C)", "A metal", "I think wood.")]
    [1, 2, -1, 2]
    """
    line = _normalized(next((line for line in text.splitlines() if line.strip()), ""))
    texts = [_normalized(choice) for choice in choices]
    places = {words: index for index, words in enumerate(texts) if words and texts.count(words) == 1}
    longest_first = sorted(places, key=len, reverse=True)  # so that none is read within a longer one
    named = re.compile(f"{_BEFORE}(?:{'|'.join(map(re.escape, longest_first))}){_AFTER}" if places else "(?!)")
    if first := named.match(line):
        return places[first[0]]
    alone = re.match(r"([a-z])(?:[.):](?!\w)|$)", line) if lettered else None
    if alone and (letter := LETTERS.lower().index(alone[1])) < len(choices):
        return letter
    chosen = {places[words] for words in named.findall(line)}
    return chosen.pop() if len(chosen) == 1 else -1


def is_ambiguous_prefix(text: str, choices: Sequence[str]) -> bool:
    """Whether a text equals one choice and is also the beginning of another one."""
    line, texts = _normalized(text), [_normalized(choice) for choice in choices]
    return line in texts and sum(words.startswith(line) for words in texts) > 1


def end_tokens(model: Any) -> tuple[int, ...]:
    """Return the ids of the tokens that end a text of this model."""
    plain = plain_model(model)
    own = plain.generation_config.eos_token_id
    ends = plain.config.get_text_config().eos_token_id if own is None else own
    return (ends,) if isinstance(ends, int) else tuple(ends or ())


@contextmanager
def _plain_decoding(model: Any, n: int) -> Iterator[tuple[int, ...]]:
    """Make `generate` take the largest logit, after processors, for at most n new tokens within the context.

    Yields the ids of the tokens that end a text.
    """
    own, ends = model.generation_config, end_tokens(model)
    # The model's own configuration would apply to everything that the call doesn't set: penalties, beams, a length.
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]  # transformers leaves it so
        max_new_tokens=n, do_sample=False, eos_token_id=list(ends) or None, pad_token_id=PADDING_ID
    )
    try:
        yield ends
    finally:
        model.generation_config = own


@torch.no_grad()
def _new_tokens(
    model: Any,
    prompts: Sequence[np.ndarray],
    ends: tuple[int, ...],
    names: Sequence[str],
    uniforms: Float64[np.ndarray, "prompt token"] | None,
) -> list[np.ndarray]:
    """Generate tokens after each prompt; return them per prompt, up to and with the first of the tokens `ends`.

    Errors use the samples' names. `uniforms` are as in `generate`.
    """

    def checked_or_drawn(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits, of drawn tokens alone if any are drawn; raise ValueError, naming the sample, for NaN."""
        broken = logits.isnan().any(dim=1)
        if broken.any():  # the likeliest token would be the first of the vocabulary
            raise ValueError(
                f"sample {names[int(broken.int().argmax())]!r}: what the model writes isn't known, its logits aren't "
                "numbers; in float16 models overflow, so load it in bfloat16 or float32"
            )
        if uniforms is None:
            return logits
        place = ids.shape[1] - input_ids.shape[1]
        numbers = torch.from_numpy(uniforms[:, place : place + 1]).to(logits.device)
        drawn = draw_ids(logits.double().softmax(-1), numbers)
        return torch.full_like(logits, -torch.inf).scatter_(1, drawn, 0.0)

    device = input_device(model)
    input_ids, attention_mask = pad_tokens(prompts, left=True)
    inputs = {"input_ids": input_ids.to(device), "attention_mask": attention_mask.to(device)}
    output = model.generate(**inputs, logits_processor=LogitsProcessorList([checked_or_drawn]), synced_gpus=False)
    rows = output[:, input_ids.shape[1] :].cpu().numpy()
    return [row[: next(iter(np.flatnonzero(np.isin(row, ends))), len(row)) + 1] for row in rows]


def _normalized(text: str) -> str:
    """Return a text in lower case, with single spaces, without quotes, brackets and punctuation around it."""
    return " ".join(text.casefold().split()).lstrip(_OUTER).rstrip(_OUTER + ".")
