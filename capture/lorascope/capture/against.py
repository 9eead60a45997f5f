"""A merged model that is compared with a run: its -log p of the run's tokens, and what each layer adds to base."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch

from lorascope.stores import Run
from lorascope.stores.progress import Progress
from lorascope.stores.reading.source import Source
from lorascope.stores.reading.walk import walk_rows

from .buffers.target import flat_index
from .models.device import input_device
from .models.model import model_facts, tokenizer_identity
from .models.passes import isolated
from .models.weights import base_tensors, plain_model
from .recording.forward import forward, negative_log_likelihood
from .recording.layout import vocabulary_texts
from .samples.encoded import EncodedSample, plan_batches

BATCH_TOKENS = (1024, 640)
"""Largest number of tokens in a batch, with padding, when all sequences are read first, and when they are repeated."""
LAYER_TOKENS = 1024
"""Number of tokens from which on no further sample's layers are compared."""


def model_nll(
    model: Any, sequences: Sequence[np.ndarray], repetition: int = 0, *, progress: Progress | None = None
) -> list[np.ndarray]:
    """Return -log p of each token given those before it, by a causal model, nats, float64 (position,) per sequence.

    NaN at position 0, in a sequence with an id that the model doesn't know, and beyond its context.

    Parameters
    ----------
    model
        A causal language model of transformers, such as `load_model` returns.
    sequences
        Token ids of each sequence (position,).
    repetition
        0 or 1, for other batches, in which the model rounds differently.
    progress
        Called after each batch with the number of sequences that are done, and their total.

    Raises
    ------
    ValueError
        If the model doesn't predict the next token.
    """
    facts = model_facts(model)
    if not facts.is_causal:
        raise ValueError(f"the target is a {facts.class_name}; only causal models predict the next token")
    values = [np.full(len(ids), np.nan) for ids in sequences]
    known = [i for i, ids in enumerate(sequences) if ids.max() < facts.n_known_tokens]
    samples = [_as_sample(sequences[i][: facts.context_length]) for i in known]
    device, n_done = input_device(model), len(sequences) - len(known)
    with isolated(model, device):
        for batch in plan_batches([len(own.token_ids) for own in samples], batch_tokens=BATCH_TOKENS[repetition]):
            positions = [np.arange(len(sample.token_ids)) for sample in samples[batch]]
            logits = forward(model, samples[batch], device)
            assert logits is not None  # a causal model has them
            nll = negative_log_likelihood(logits, samples[batch], positions)
            parts = np.split(nll.cpu().numpy(), np.cumsum([len(own) for own in positions])[:-1])
            for i, part in zip(known[batch], parts, strict=True):
                values[i][: len(part)] = part
            n_done += len(positions)
            if progress is not None:
                progress(n_done, len(sequences))
    return values


class LayerSums(NamedTuple):
    """Sums over tokens of what a model's layers add to the run's base, y, and of the run's delta, x, by feature."""

    sums: dict[str, np.ndarray]
    """Component -> float64 (3, feature): the sums of x y, x x and y y, without those of position 0."""
    not_compared: dict[str, int]
    """Why components aren't compared -> how many."""


def layer_sums(
    model: Any,
    run: Run,
    sequences: Sequence[np.ndarray],
    places: np.ndarray,
    *,
    adapter: str | None = None,
    progress: Progress | None = None,
) -> LayerSums:
    """Compare the outputs of a model's layers with base + delta of a run's components, each at the run's own input.

    A layer's output is replaced by the run's once it was compared, so that what differs in it doesn't reach the next.
    The first samples are read whose states are all stored, up to about `LAYER_TOKENS` tokens.

    Parameters
    ----------
    model
        A causal language model of transformers without adapters.
    run
        A run that keeps states; of stream `pair` nothing is compared, since its delta isn't a layer's own.
    sequences, places
        Token ids of samples, and the places of all their tokens on the run's token axis, (token,).
    adapter
        Name of the adapter; not needed if there is only one.
    progress
        Called after each batch with the number of sequences that are done, and their total.
    """
    paths = [path for path, rank in zip(run.component_paths, run.adapter(adapter)["rank"].values, strict=True) if rank]
    usable, starts = (run.with_states.values & run.committed.values)[places], np.cumsum([0, *map(len, sequences)])
    facts = model_facts(model)
    whole = [
        i
        for i, ids in enumerate(sequences)
        if usable[starts[i] : starts[i + 1]].all()
        and ids.max() < facts.n_known_tokens
        and len(ids) <= (facts.context_length or len(ids))
    ]
    n_before = np.cumsum([0, *(len(sequences[i]) for i in whole)])
    chosen = [i for i, n in zip(whole, n_before, strict=False) if n < LAYER_TOKENS]
    if not chosen or run.stream == "pair":
        reason = "in stream `pair` delta includes what earlier layers change"
        return LayerSums(
            {},
            {reason if chosen else "base and delta of no whole sample that the target can read are stored": len(paths)},
        )
    modules, sums = dict(plain_model(model).named_modules()), dict[str, np.ndarray]()
    samples, device, n_done = [_as_sample(sequences[i]) for i in chosen], input_device(model), 0
    batch_places: list[np.ndarray] = []  # of each sample of the batch
    with ExitStack() as stack:
        stack.enter_context(isolated(model, device))
        for path in paths:
            if path in modules:
                hook = _comparing(run, run.source(path, adapter), batch_places, sums)
                stack.callback(modules[path].register_forward_hook(hook).remove)
        for batch in plan_batches([len(own.token_ids) for own in samples], batch_tokens=BATCH_TOKENS[0]):
            batch_places[:] = [places[starts[i] : starts[i + 1]] for i in chosen[batch]]
            forward(model, samples[batch], device)
            n_done += len(batch_places)
            if progress is not None:
                progress(n_done, len(samples))
    n_missing = len(paths) - len(sums)
    return LayerSums(sums, {"the target has no layer of their name and width": n_missing} if n_missing else {})


def _comparing(run: Run, source: Source, places: list[np.ndarray], sums: dict[str, np.ndarray]) -> Callable[..., Any]:
    """Return a hook that adds a layer's sums of a batch to `sums`, and puts the run's output in place of the layer's.

    `places` are those of the batch's tokens on the run's token axis, one array per sample.
    """

    def compare(module: Any, args: Any, output: Any) -> Any:
        """Compare a layer's output (sequence, position, feature) with base + delta, and return the run's output."""
        if not isinstance(output, torch.Tensor) or output.shape[-1] != source.base.shape[1]:
            return output
        chosen = np.zeros(run.n_tokens, bool)
        chosen[np.concatenate(places)] = True
        blocks = [*walk_rows([source], ["base", "delta"], tokens=chosen, n_threads=1)]
        base = np.concatenate([block.base[source.component] for block in blocks])
        x = np.concatenate([block.delta[source.component] for block in blocks])
        positions = [np.arange(len(own)) for own in places]
        flat = torch.from_numpy(flat_index(positions, max(map(len, places)))).to(output.device)
        replaced = output.reshape(-1, output.shape[-1]).clone()
        y = replaced[flat].float().cpu().numpy() - base
        replaced[flat] = torch.from_numpy(base if run.stream == "base" else base + x).to(replaced)
        later = np.concatenate(positions) > 0  # many models have outliers at position 0
        added = np.stack([(a[later] * b[later]).sum(axis=0, dtype=np.float64) for a, b in ((x, y), (x, x), (y, y))])
        sums[source.component] = sums.get(source.component, 0) + added
        return replaced.reshape(output.shape)

    return compare


def tokenizer_differences(tokenizer: Any, run: Run) -> list[str]:
    """Return a clause on the first token id that has another text than in the run, if there is one."""
    stored = run.attributes.get("provenance", {}).get("tokenizer", {}).get("sha256")
    if "vocabulary/text" not in run.arrays or tokenizer_identity(tokenizer)["sha256"] == stored:
        return []
    texts = run.vocabulary()
    own = np.array(vocabulary_texts(tokenizer, len(texts)), object)
    first = [f"token {i} is {own[i]!r}, in the run {texts[i]!r}" for i in np.flatnonzero(own != texts)[:1]]
    return [f"its tokenizer is another: {clause}" for clause in first]


def has_other_rules(tokenizer: Any, run: Run) -> bool:
    """Return whether a tokenizer's serialised form isn't the run's, so that it may split texts otherwise."""
    stored = run.attributes.get("provenance", {}).get("tokenizer", {}).get("sha256")
    return bool(stored != tokenizer_identity(tokenizer)["sha256"])


def is_exact(model: Any, run: Run) -> bool:
    """Return whether a model and the run's layers compute in float32, from weights that aren't quantised."""
    dtypes = {str(tensor.dtype) for tensor in base_tensors(model).values()}
    return dtypes == {"torch.float32"} and set(run.components["dtype"].values) == {"float32"}


def _as_sample(token_ids: np.ndarray) -> EncodedSample:
    """Return token ids as a sample without roles."""
    roles = np.zeros(len(token_ids), np.uint8)
    return EncodedSample(id="", dataset="", split="", prompt="tokens", token_ids=token_ids, roles=roles)
