"""Everything about a capture that is settled before its first row: samples, tokens, components, specification."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from lorascope.stores import RunSpec
from lorascope.stores.reading.token_choice import population
from lorascope.stores.size import parse_size

from ..adapters.adapter import adapter_identity, scaling_identity
from ..adapters.components import LoraComponent, chosen_components, factor_weights
from ..adapters.passes import Pass
from ..adapters.preflight import Note, inspect
from ..adapters.refusal import require
from ..adapters.training_record import base_notes
from ..config import CaptureConfig
from ..models.model import context_length, is_causal, tokenizer_identity
from ..models.unembedding import FinalNorm, final_norm, unembedding_kind, unembedding_values
from ..models.weights import plain_model
from ..recording.forward import probe, probe_samples
from ..recording.hooks import Recorder
from ..recording.ranks import Ranks
from ..samples.batches import pad, plan_batches
from ..samples.chats import special_text, special_tokens
from ..samples.encode import encode_items
from ..samples.encoded import EncodedSample
from ..samples.generate import generate, generation_batches
from ..samples.hub import hub_source
from ..samples.items import ChatItem, ChoiceItem, Item
from ..samples.prompt import Prompts, read_prompts
from ..samples.selection import TokenPlan, plan_tokens
from ..samples.sources import read_item_files
from .estimate import choose_share
from .load import Known, Loaded, know
from .provenance import data_fingerprint, device_description, library_versions
from .run_spec import specify

CPU_SHARE = 1 / 64
"""Share of tokens whose js is measured and whose sums are checked on a CPU: about 2 % of the forward pass's time."""


class Files(NamedTuple):
    """What a capture's files of data, prompts and examples hold."""

    items: Mapping[str, Sequence[Item]]
    """Data file -> its items."""
    prompts: Prompts


class Prepared(NamedTuple):
    """A capture before its first row; every process of it, and every later attempt at it, comes to the same."""

    config: CaptureConfig
    """With the tokens that a budget chose."""
    samples: Sequence[EncodedSample]
    """What passes the model."""
    scored: Sequence[EncodedSample]
    """What is scored: the samples as they came, before generated tokens took the place of their answers."""
    batches: Sequence[slice]
    plan: TokenPlan
    components: Mapping[str, Sequence[LoraComponent]]
    """Adapter -> the components that it changes."""
    spec: RunSpec
    provenance: Callable[[], dict[str, Any]]
    """Gives what shaped the numbers, and what else the run remembers, as JSON values; waits for the weights' hash."""
    norm: FinalNorm | None = None
    """The model's, where its unembedding is stored."""

    def weights(self, model: Any, tokenizer: Any) -> dict[str, Any]:
        """lora_B, and lora_bias where there is one, of every factored component, by their paths in the run.

        And the unembedding, where it is stored.
        """
        weights: dict[str, Any] = {} if self.norm is None else unembedding_values(model, tokenizer, self.norm)
        for adapter in self.spec.adapters if self.spec.states != "none" else ():
            starts = dict(zip((c.path for c in self.spec.components), adapter.factor_start, strict=True))
            factored = [component for component in self.components[adapter.name] if starts[component.path] >= 0]
            found = factor_weights(model, factored, adapter.name)
            for component, (lora_b, bias) in zip(factored, found, strict=True):
                weights[f"adapters/{adapter.name}/lora_B/{component.path}"] = lora_b
                if bias is not None:
                    weights[f"adapters/{adapter.name}/lora_bias/{component.path}"] = bias
        return weights


def prepare(config: CaptureConfig, loaded: Loaded, files: Files, ranks: Ranks) -> Prepared:
    """Check everything, and settle what will be stored; nothing is written.

    Raises
    ------
    AdapterError
        If an adapter can't be measured on this model.
    CaptureError
        If a hook doesn't fire exactly once in a probe pass, or a layer's output isn't its base plus delta.
    ValueError
        If a sample can't be captured as it is, or the budget doesn't suffice for a token of each sample.
    """
    scored, omitted = encode_files(config, loaded.model, loaded.tokenizer, files)
    require_known_tokens(loaded.model, scored)
    samples = scored
    input_ids, attention_mask = pad(probe_samples(loaded.model, scored[0]))
    inputs = {"input_ids": input_ids.to(loaded.device), "attention_mask": attention_mask.to(loaded.device)}
    preflight = inspect(loaded.model, loaded.adapters, stream=config.stream, allow_zero=config.allow_zero, probe=inputs)
    require(preflight.problems, ", ".join(loaded.adapters))
    if config.generate:
        samples = _generate(config, loaded, scored, ranks)
    components = chosen_components(loaded.model, loaded.adapters, config.component, skip=preflight.skipped)
    recorder = Recorder(loaded.model, components, stream=config.stream)
    dtypes = probe(loaded.model, recorder, probe_samples(loaded.model, samples[0]), loaded.device)
    settled = settle(config, loaded.model, samples, components, dtypes, loaded.device)
    if (kept := settled.spec.unembedding) is not None:
        with Pass("base", None).enabled(loaded.model):
            norm = final_norm(loaded.model, inputs)
        kept = dataclasses.replace(kept, centred=norm.centred)
        settled = settled._replace(norm=norm, spec=dataclasses.replace(settled.spec, unembedding=kept))

    def provenance() -> dict[str, Any]:
        known = know(loaded)
        unproven = [name for name in loaded.adapters if not known.is_proven(name)]
        notes = [*preflight.notes, *(note for one in known.training.values() for note in one.notes)]
        notes += [*base_notes(loaded.model, unproven, config.model), *data_notes(files, loaded.tokenizer)]
        return _provenance(settled, loaded, known, prompts=files.prompts, omitted=omitted, notes=notes)

    return settled._replace(scored=scored, provenance=provenance)


def settle(
    config: CaptureConfig,
    model: Any,
    samples: Sequence[EncodedSample],
    components: Mapping[str, Sequence[LoraComponent]],
    dtypes: Mapping[str, torch.dtype],
    device: torch.device,
) -> Prepared:
    """Batches, tokens and specification of a capture of these samples; a budget has chosen its tokens.

    The model may be on the meta device; `dtypes` has the type of each component's output. Raises a StoreError if the
    budget doesn't suffice for a token of each sample, and a ValueError if the selection takes nothing of one, or the
    model has no predictions by which to measure an ablation.
    """
    lengths = [len(sample.token_ids) for sample in samples]
    # Next-token distributions are compared where states aren't all kept, and both models give them.
    kl = config.states != "all" and config.stream != "base" and is_causal(model)
    if config.ablate and not is_causal(model):
        raise ValueError(
            f"`ablate` is {config.ablate!r}, but {type(plain_model(model)).__name__} doesn't foresee the next token, "
            "and what is measured is how that changes; leave `ablate` out"
        )
    n_choices = sum(len(sample.choices) for sample in samples)
    counts: dict[str, Any] = {"n_samples": len(samples), "n_choices": n_choices, "kl": kl}
    if config.unembedding:
        counts["unembedding"] = unembedding_kind(model)
    if config.budget is not None:
        every = specify(config, components, dtypes, n_tokens=sum(lengths), **counts)
        tokens = choose_share(every, lengths, parse_size(config.budget))
        config = dataclasses.replace(config, tokens=tokens, budget=None)
    batches = plan_batches(lengths, batch_tokens=config.batch_tokens)
    kl_share = config.kl_share if kl else 0.0
    share = config.js_share
    if share is None:
        share = 1.0 if device.type == "cuda" else CPU_SHARE
    shares = {"js_share": share, "kl_share": kl_share, "ablate_share": config.ablate_share if config.ablate else 0.0}
    plan = plan_tokens(samples, batches, config.tokens, **shares, seed=config.seed)
    spec = specify(config, components, dtypes, n_tokens=plan.n_tokens, **counts)
    return Prepared(config, samples, samples, batches, plan, components, spec, lambda: {"js_share": share})


def read_files(config: CaptureConfig, given: Mapping[str, Sequence[Item]] | None = None) -> Files:
    """Items by file, or those that are given, and what they are asked with.

    Raises
    ------
    FileNotFoundError
        If a file doesn't exist.
    ValueError
        If a file isn't what it should be or stands twice in `data`, an item stands in two files, or a prompt shows
        examples and there are none for an item.
    """
    prompts = read_prompts(config.prompt, config.examples, seed=config.seed)
    files = read_item_files("data", config.data) if given is None else given
    for items in files.values():
        prompts.check(items)
    return Files(files, prompts)


def require_known_tokens(model: Any, samples: Sequence[EncodedSample]) -> None:
    """Raise a ValueError if a sample has a token that the model doesn't know."""
    n_known = getattr(model.config.get_text_config(), "vocab_size", None) or sys.maxsize
    for sample in samples:
        highest = max(int(ids.max()) for ids in (sample.token_ids, *(one.token_ids for one in sample.choices)))
        if highest >= n_known:
            raise ValueError(
                f"sample {sample.id!r} has token {highest}, but the model knows {n_known}, from 0; give the tokenizer "
                "that belongs to the model"
            )


def data_notes(files: Files, tokenizer: Any) -> Iterator[Note]:
    """What a reader of a run should know of its data."""
    known = special_tokens(tokenizer)
    for path, items in files.items.items():
        tied = [one.id for one in items if isinstance(one, ChoiceItem) and len({*one.choices}) < len(one.choices)]
        if tied:
            message = (
                f"{len(tied)} of {len(items)} items of {path!r} have equal choices, {tied[0]!r} the first of them; of "
                "equal likelihoods the first choice counts as the prediction"
            )
            yield Note("data", message, ())
        found = [(one.id, special_text(one, known)) for one in items if isinstance(one, ChatItem)]
        if special := [(name, token) for name, token in found if token]:
            message = (
                f"{len(special)} of {len(items)} chats of {path!r} hold the text of a special token in a message, "
                f"{special[0][0]!r} ({special[0][1]!r}) the first of them; it passes as that token, as in training"
            )
            yield Note("data", message, ())


def encode_files(
    config: CaptureConfig, model: Any, tokenizer: Any, files: Files
) -> tuple[list[EncodedSample], dict[str, int]]:
    """Samples of all files, and by file how many items (windows, for text) the limit left out.

    One prompt after the other is put to all questions; what isn't one knows no prompt and comes with the first.
    """
    length = context_length(model) or sys.maxsize
    samples: list[EncodedSample] = []
    omitted: dict[str, int] = {}
    for template in files.prompts.templates:
        for path, items in files.items.items():
            is_first = template is files.prompts.templates[0]
            asked = [item for item in items if is_first or isinstance(item, ChoiceItem)]
            if not asked:
                continue
            found = encode_items(
                asked,
                tokenizer,
                max_length=length,
                window_tokens=config.window_tokens,
                prompt=template,
                examples=files.prompts.examples,
            )
            samples += found[: config.limit]
            if len(found) > len(found[: config.limit]):
                omitted[path] = len(found) - len(found[: config.limit])
    return samples, omitted


def _generate(
    config: CaptureConfig, loaded: Loaded, samples: Sequence[EncodedSample], ranks: Ranks
) -> list[EncodedSample]:
    n, batch_tokens = config.generate, config.batch_tokens
    batches = generation_batches(samples, n=n, batch_tokens=batch_tokens)
    parts = ranks.shared(samples, batches, lambda part: generate(loaded.model, part, n=n, batch_tokens=batch_tokens))
    return [sample for part in parts for sample in part]


def _provenance(
    settled: Prepared, loaded: Loaded, known: Known, *, prompts: Prompts, omitted: dict[str, int], notes: Sequence[Note]
) -> dict[str, Any]:
    config = settled.config
    return {
        "model": known.identity,
        "adapters": {
            name: {**adapter_identity(loaded.model, name), "module_scaling": scaling_identity(loaded.model, name)}
            for name in loaded.adapters
        },
        "tokenizer": tokenizer_identity(loaded.tokenizer),
        "data": data_fingerprint(settled.samples),
        "data_sources": {name: source for name in config.data if (source := hub_source(name))},
        "prompt": prompts.description(),
        "settings": _settings(config),
        "population": population(config.tokens),
        **settled.provenance(),
        "libraries": library_versions(),
        "device": device_description(loaded.device),
        "training": {name: training.record for name, training in known.training.items() if training.record},
        "preflight": [note.as_dict() for note in notes],
        "omitted_items": omitted,
    }


def _settings(config: CaptureConfig) -> dict[str, Any]:
    """Settings as a run keeps them; where they shape no number, those that older versions don't know stay out.

    Else these would take another fingerprint of the run than is in it.
    """
    found = dataclasses.asdict(config)
    later = {"unembedding", *(() if config.ablate else ("ablate", "ablate_share"))}
    return {name: value for name, value in found.items() if name not in later}
