"""The layout of a capture: samples, batches, captured tokens, components, arrays, and the tables of the run."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lorascope.stores import RunSpec
from lorascope.stores.reading.token_choice import choose_tokens, empty_sample_error

from ..models.branches import lora_b, lora_bias
from ..models.components import LoraComponent, group_for_ablation
from ..samples.encoded import EncodedSample
from ..samples.generate import Answer
from ..samples.scoring import Scores

_SAMPLE_SCORES = ("prediction", "prediction_per_token", "correct", "correct_per_token", "ce")
_CHOICE_SCORES = ("loglik", "loglik_per_token")


class TokenPlan(NamedTuple):
    """Plan of the tokens that a run stores from each sample, and of the tokens and batches that it measures.

    It is a pure function of data and configuration.
    """

    positions: tuple[np.ndarray, ...]
    """Sample -> captured positions in its sequence, int64 (token,)."""
    starts: np.ndarray
    """Index of each sample's first captured token on the token axis, then the number of tokens, int64 (sample + 1,)."""
    measured: np.ndarray
    """Bool (token,): tokens whose js is measured during capture."""
    weights: np.ndarray
    """Float32 (token,): inverse of the probability that the token was chosen from its sample; see `choose_tokens`."""
    kl_batches: np.ndarray
    """Bool (batch,): batches whose next-token distributions are compared with the base model's."""
    ablate_batches: np.ndarray
    """Bool (batch,): batches that run once more without each part of the adapter."""
    change_batches: np.ndarray
    """Bool (batch,): batches in which the adapters' changes of next-token distributions are stored."""
    seed: int
    """Seed of the draws from next-token distributions."""

    @property
    def n_tokens(self) -> int:
        """Number of stored tokens: the length of the run's token axis."""
        return int(self.starts[-1])


class Layout(NamedTuple):
    """All that is settled before a capture runs: samples, batches, tokens, adapted layers and arrays.

    It is a pure function of data, model and settings.

    All processes that share a capture, and all later attempts at it, get the same layout.
    """

    samples: Sequence[EncodedSample]
    """The sequences that pass the model."""
    batches: Sequence[slice]
    """Samples of each batch."""
    plan: TokenPlan
    """Captured tokens of each sample, and their indices on the token axis."""
    components: Mapping[str, Sequence[LoraComponent]]
    """Adapter -> the components that it changes."""
    spec: RunSpec
    """Arrays of the run."""
    tokens: str
    """The choice of tokens in words; with a budget, the choice that fits it."""
    js_share: float
    """Share of the tokens on which js is measured."""

    @property
    def change_share(self) -> float:
        """Share of the stored tokens whose next-token changes are stored."""
        return self.count_tokens(self.plan.change_batches) / self.plan.n_tokens

    def count_tokens(self, chosen: np.ndarray) -> int:
        """Return the number of stored tokens of the chosen batches, a mask (batch,)."""
        starts = self.plan.starts
        slices = (batch for batch, is_chosen in zip(self.batches, chosen, strict=True) if is_chosen)
        return sum(int(starts[batch.stop] - starts[batch.start]) for batch in slices)

    def ablated_layers(self) -> list[list[Any]]:
        """Return PEFT's layers of each part of the adapter that an ablation removes in turn; [] without an ablation."""
        if self.spec.ablate is None:
            return []
        (components,) = self.components.values()
        return [[c.module for c in part] for part in group_for_ablation(components, self.spec.ablate).values()]

    def weights(self) -> dict[str, Any]:
        """Return path in the run -> array of the LoRA weights to store: B and any bias of each layer with a factor."""
        weights: dict[str, Any] = {}
        paths = [component.path for component in self.spec.components]
        for adapter in self.spec.adapters if self.spec.states != "none" else ():
            starts = dict(zip(paths, adapter.factor_start, strict=True))
            for component in self.components[adapter.name]:
                if starts[component.path] < 0:
                    continue
                weights[f"adapters/{adapter.name}/lora_B/{component.path}"] = lora_b(component.module, adapter.name)
                if (bias := lora_bias(component.module, adapter.name)) is not None:
                    weights[f"adapters/{adapter.name}/lora_bias/{component.path}"] = bias
        return weights


def plan_tokens(
    samples: Sequence[EncodedSample],
    batches: Sequence[slice],
    selection: str,
    *,
    js_share: float,
    seed: int,
    kl_share: float = 0.0,
    ablate_share: float = 0.0,
    change_share: Callable[[int], float] = lambda n_tokens: 0.0,
) -> TokenPlan:
    """Choose the tokens to capture from each sample, and draw the tokens and batches to measure.

    Parameters
    ----------
    samples, batches
        The samples that pass the model, and the slice of them in each batch.
    selection
        A choice of tokens in words, see `lorascope.stores.reading.token_choice`.
    js_share
        Share of the captured tokens to measure; at least one token of every batch is measured.
    seed
        Seed of the draws of tokens and batches. A sample's tokens depend only on the seed and the sample, not on other
        samples.
    kl_share, ablate_share
        Share of the batches in `kl_batches` and `ablate_batches`: at least one batch, or none if the share is 0.
    change_share
        Function that returns the share of the batches in `change_batches` from the number of captured tokens.

    Raises
    ------
    ValueError
        If the selection takes no token of a sample.
    """
    selected = []
    for sample in samples:
        length = len(sample.roles)
        known: dict[str, Any] = {"positions": np.arange(length), "roles": sample.roles, "length": length}
        selected.append(choose_tokens(selection, **known, generator=_generator(sample, seed)))
        if not len(selected[-1][0]):
            name = f"{sample.id!r} of {sample.dataset!r} under prompt {sample.prompt!r}"
            raise empty_sample_error(selection, name, **known)
    starts = np.concatenate([[0], np.cumsum([len(positions) for positions, _ in selected])])
    measured = _seeded_share(int(starts[-1]), js_share, np.random.default_rng(seed))
    for batch in batches:  # so that sums are checked in every pass
        first, last = starts[batch.start], starts[batch.stop]
        measured[first] |= not measured[first:last].any()
    return TokenPlan(
        positions=tuple(positions for positions, _ in selected),
        starts=starts,
        measured=measured,
        weights=np.concatenate([weights for _, weights in selected]),
        kl_batches=_seeded_share(len(batches), kl_share, np.random.default_rng([seed, 1])),
        ablate_batches=_seeded_share(len(batches), ablate_share, np.random.default_rng([seed, 2])),
        change_batches=_seeded_share(len(batches), change_share(int(starts[-1])), np.random.default_rng([seed, 3])),
        seed=seed,
    )


def _generator(sample: EncodedSample, seed: int) -> np.random.Generator:
    """Return a sample's NumPy generator, seeded by `seed` and the sample's data set, split, prompt and id only."""
    name = "\0".join((sample.dataset, sample.split, sample.prompt, sample.id))
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, "<u4").tolist()])


def _seeded_share(n: int, share: float, generator: np.random.Generator) -> np.ndarray:
    """Return a mask, bool (n,), with exactly ceil(share * n) entries True, drawn without replacement."""
    chosen = generator.permutation(n)[: int(np.ceil(share * n))]
    mask = np.zeros(n, dtype=bool)
    mask[chosen] = True
    return mask


def vocabulary_texts(tokenizer: Any, n_vocabulary: int) -> list[str]:
    """Return the text of each token id, decoded alone; empty for ids that the model has and the tokenizer hasn't."""
    n_known = min(n_vocabulary, len(tokenizer))
    texts: list[str] = tokenizer.batch_decode([[index] for index in range(n_known)])
    return [*texts, *[""] * (n_vocabulary - n_known)]


def make_tables(
    samples: Sequence[EncodedSample],
    plan: TokenPlan,
    texts: Sequence[str],
    scores: Scores | None,
    base_scores: Scores | None,
    answers: Sequence[Answer] | None = None,
    base_answers: Sequence[Answer] | None = None,
    *,
    scored: Sequence[EncodedSample] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the columns of a run's tables `samples`, `choices` and `tokens`, as table -> column -> values.

    Missing scores are -1 or NaN.

    Parameters
    ----------
    samples
        The captured samples, in the order of the run.
    plan
        The samples' token plan.
    texts
        Text of each captured token (token,).
    scores, base_scores
        Scores with and without the adapter; None if they weren't asked for.
    scored
        The samples as they were scored, if tokens were generated afterwards.
    answers, base_answers
        The model's answers with and without the adapter, one per sample with choices; None if not asked for.
    """
    owners = [(index, choice) for index, sample in enumerate(samples) for choice in sample.choices]
    table: dict[str, Any] = {
        **{
            name: [getattr(sample, name) for sample in samples]
            for name in ("id", "dataset", "split", "prompt", "answer")
        },
        "length": [len(sample.token_ids) for sample in samples],
        "n_targets": [int(sample.is_target.sum()) for sample in scored or samples],
        "token_start": plan.starts[:-1],
        "token_stop": plan.starts[1:],
    }
    choices: dict[str, Any] = {
        "sample": [index for index, _ in owners],
        "text": [choice.text for _, choice in owners],
        "n_tokens": [len(choice.token_ids) for _, choice in owners],
    }
    blank = (np.full((4, len(samples)), -1), np.full((1, len(samples)), np.nan), np.full((2, len(owners)), np.nan))
    unscored = Scores(*(column for columns in blank for column in columns))
    # The format has no columns for base scores that weren't asked for.
    for prefix, sample_scores, written in (("", scores or unscored, answers), ("base_", base_scores, base_answers)):
        if sample_scores is not None:
            table |= {prefix + name: getattr(sample_scores, name) for name in _SAMPLE_SCORES}
            choices |= {prefix + name: getattr(sample_scores, name) for name in _CHOICE_SCORES}
        if written is not None:
            left = iter(written)
            each = [next(left) if sample.choices else None for sample in samples]
            table |= {
                f"{prefix}written": [answer.written if answer else "" for answer in each],
                f"{prefix}written_prediction": [answer.prediction if answer else -1 for answer in each],
                f"{prefix}written_correct": [
                    answer.prediction == sample.answer if answer else -1
                    for answer, sample in zip(each, samples, strict=True)
                ],
            }
    captured = [*zip(samples, plan.positions, strict=True)]
    tokens = {
        "sample": np.repeat(np.arange(len(samples)), np.diff(plan.starts)),
        "position": np.concatenate(plan.positions),
        "token_id": np.concatenate([sample.token_ids[positions] for sample, positions in captured]),
        "role": np.concatenate([sample.roles[positions] for sample, positions in captured]),
        "text": list(texts),
        "weight": plan.weights,
    }
    return {"samples": table, "choices": choices, "tokens": tokens}
