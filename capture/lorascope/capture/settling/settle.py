"""Settle a capture: decide, open and load everything that it needs before its first row, from the configuration."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from lorascope.stores import Place, Run, StoreError, open_place, open_run, run_state
from lorascope.stores.format.digests import provenance_identity
from lorascope.stores.format.layout import IN_RUN
from lorascope.stores.format.spec import CODECS
from lorascope.stores.places.file_lock import run_lock
from lorascope.stores.process import keeping_freed_memory
from lorascope.stores.reading.read import missing_chunks, neutral_place
from lorascope.stores.reading.state import RunState
from lorascope.stores.reading.token_choice import describe_population
from lorascope.stores.size import format_size, parse_size

from ..config import CaptureConfig
from ..models.adapter import adapter_identity, read_trainings, scaling_identity
from ..models.components import select_components
from ..models.device import is_offloaded, local_rank, parse_device, require_device
from ..models.model import tokenizer_identity
from ..models.passes import isolated
from ..models.preflight import Note, finite_notes, inspect
from ..models.ranks import Ranks, join_ranks
from ..models.refusal import raise_for_problems
from ..models.shards import layer_shards
from ..models.steps import passes_in_step
from ..models.training_record import base_notes
from ..models.weights import hashing_in_thread
from ..recording.forward import probe
from ..recording.hooks import Recorder
from ..recording.layout import Layout
from ..recording.nulls import require_turnable
from ..recording.progress import Report, counting, report_stage
from ..samples.encode import require_known_tokens
from ..samples.encoded import EncodedSample, pad, probe_samples
from ..samples.generate import generate, generation_batches
from ..samples.hub import hub_source
from ..samples.replies import encode_reply_prompts
from ..samples.reply_prompts import read_reply_prompts
from .data import Data, Items, data_notes, encode_data, read_data
from .estimate import estimate
from .inputs import require_inputs
from .load import Loaded, load
from .make_layout import make_layout, with_chosen_tokens
from .neutral import longest_layout, neutral_config, read_neutral_texts, write_neutral_texts
from .provenance import data_fingerprint, device_description, library_versions, require_same_identity
from .trial import fastest_codec


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A capture before its first row: its place is open, its model loaded, its layout and codec are chosen."""

    config: CaptureConfig
    """Settings as the run stores them: with the tokens that a budget chose, and the codec that a trial chose."""
    place: Place
    state: RunState
    """State of the run at this place."""
    ranks: Ranks
    loaded: Loaded
    data: Data
    scored: tuple[EncodedSample, ...]
    """The samples with their own answers, before generated tokens replaced these; they are scored."""
    layout: Layout
    prompts: Mapping[str, EncodedSample]
    """Prompt -> its tokens, for each prompt that the model replies to."""
    notes: tuple[Note, ...]
    """Notes of the preflight."""
    omitted: Mapping[str, int]
    """File -> number of items that the limit excluded."""
    neutral_bytes: int
    """Free space that the run of its neutral texts should have at most; 0 without such texts."""

    def provenance(self) -> dict[str, Any]:
        """Return all that shaped the run's numbers, and notes, as JSON values; waits for the hash of the weights."""
        config, loaded = self.config, self.loaded
        model = {**loaded.identity, "sha256": loaded.weights_hash().sha256}
        trainings = read_trainings(loaded.model, loaded.folders, model)
        unproven = [name for name in loaded.adapters if not (name in trainings and trainings[name].is_proven)]
        notes = [*self.notes, *(note for training in trainings.values() for note in training.notes)]
        notes += finite_notes(loaded.weights_hash().not_finite)
        notes += [*base_notes(loaded.model, unproven, config.model), *data_notes(self.data, loaded.tokenizer)]
        return {
            "model": model,
            "adapters": {
                name: {**adapter_identity(loaded.model, name), "module_scaling": scaling_identity(loaded.model, name)}
                for name in loaded.adapters
            },
            "tokenizer": tokenizer_identity(loaded.tokenizer),
            "data": data_fingerprint(self.layout.samples),
            "data_sources": {name: source for name in config.data if (source := hub_source(name))},
            "prompt": self.data.prompts.description(),
            "settings": _stored_settings(config),
            "population": describe_population(config.tokens),
            "js_share": self.layout.js_share,
            "libraries": library_versions(),
            "device": device_description(loaded.device),
            "training": {name: training.record for name, training in trainings.items() if training.record},
            "preflight": [note._asdict() for note in notes],
            "omitted_items": dict(self.omitted),
        }


@contextmanager
def settle(
    config: CaptureConfig, items: Items | None, model: Any, tokenizer: Any, progress: Report
) -> Iterator[Settled]:
    """Yield a capture ready for its first row: inputs checked, model loaded, layout chosen, place locked.

    No other process captures at its place within this context, and the model is in eval mode.

    Items and a loaded model, if they are given, replace those that the settings name. `capture` lists the errors.
    """
    require_inputs(config, model_given=model is not None, data_given=items is not None)
    device = parse_device(config.device, local_rank=local_rank())
    place = open_place(config.out)
    with (
        join_ranks(device) as ranks,
        keeping_freed_memory(),
        _capture_lock(place, ranks),
        hashing_in_thread() as hashing,
    ):
        require_device(device)
        state = ranks.from_leader(run_state(place))
        unfinished = open_run(place) if state in {"unfinished", "finished"} else None
        budget = None
        if unfinished is not None:
            budget = config.budget
            config = settings_to_resume(config, unfinished.attributes.get("provenance", {}))
        data = read_data(config, items)
        require_same_on_all(ranks, {"settings": {**_stored_settings(config), "device": None}})  # one has its own
        with report_stage(progress, "load model") if model is None else nullcontext():
            loaded = load(config, device, model, tokenizer, hashing)
        with isolated(loaded.model, loaded.device), passes_in_step(loaded.model, loaded.device) as steps:
            ranks = ranks._replace(shards=layer_shards(loaded.model), steps=steps)
            with report_stage(progress, "check"):
                settled = settle_loaded(config, loaded, data, ranks, place, state)
                if config.codec == "auto":
                    settled = _with_fastest_codec(settled, config)
            if unfinished is not None:
                _require_within(budget, settled)
                with report_stage(progress, "hash weights"):
                    expected = settled.provenance()
                require_same_capture(settled, unfinished, expected)
            yield settled


def settle_loaded(
    config: CaptureConfig, loaded: Loaded, data: Data, ranks: Ranks, place: Place, state: RunState
) -> Settled:
    """Check a loaded model, its adapters and samples, and choose the run's layout; nothing is written.

    Raises
    ------
    AdapterError
        If an adapter can't be measured on this model.
    CaptureError
        If a hook doesn't fire exactly once in a probe pass, or a layer's output isn't its base plus delta.
    ValueError
        If a sample can't be captured as it is, or the budget is too small for one token of each sample.
    """
    model, device = loaded.model, loaded.device
    facts = loaded.facts
    scored, omitted = encode_data(data, loaded.tokenizer, config, facts.context_length)
    require_known_tokens(facts.n_known_tokens, scored)
    prompts = encode_reply_prompts(read_reply_prompts(config.replies), loaded.tokenizer, facts.context_length)
    if ranks.size > 1:  # before passes that they make together, and before they exchange what the model writes
        require_same_on_all(ranks, {"data": data_fingerprint([*scored, *prompts.values()])})
    input_ids, attention_mask = pad(probe_samples(scored[0], whole=facts.attends_by_length))
    inputs = {"input_ids": input_ids.to(device), "attention_mask": attention_mask.to(device)}
    preflight = inspect(model, loaded.adapters, stream=config.stream, allow_zero=config.allow_zero, probe=inputs)
    raise_for_problems(preflight.problems, ", ".join(loaded.adapters))
    if config.importance and is_offloaded(model):
        raise ValueError(
            f"`importance` is {config.importance}, but some of the model's weights are offloaded, and gradients need "
            "them all at once; leave `importance` out, or take a larger device"
        )
    if config.null_adapters:
        require_turnable(model, loaded.adapters)
    components = select_components(model, loaded.adapters, config.component, skip=preflight.skipped)
    samples = scored
    if config.generate:
        options: dict[str, Any] = {"n": config.generate, "batch_tokens": config.batch_tokens}
        batches = generation_batches(scored, **options)
        parts = ranks.map_batches(scored, batches, lambda part: generate(model, part, **options))
        samples = [sample for part in parts for sample in part]
    recorder = Recorder(components, stream=config.stream)
    dtypes, n_logits = probe(model, recorder, probe_samples(samples[0], whole=facts.attends_by_length), device)
    layers: dict[str, Any] = {"components": components, "dtypes": dtypes, "device": device, "n_logits": n_logits}
    inner = None if config.neutral is None else longest_layout(config, facts, loaded.tokenizer, **layers)
    neutral_bytes = 0 if inner is None else estimate(inner.spec).needed_bytes
    layout = make_layout(config, facts, samples, **layers, n_prompts=len(prompts), reserved_bytes=neutral_bytes)
    notes = [*preflight.notes]
    if config.changes != "none" and not layout.spec.n_vocabulary:
        message = f"next-token changes aren't stored, since {facts.class_name} doesn't predict the next token"
        notes.append(Note("changes", message, ()))
    return Settled(
        config=with_chosen_tokens(config, layout),
        place=place,
        state=state,
        ranks=ranks,
        loaded=loaded,
        data=data,
        scored=tuple(scored),
        layout=layout,
        prompts=prompts,
        notes=tuple(notes),
        omitted=omitted,
        neutral_bytes=neutral_bytes,
    )


def settle_neutral(settled: Settled, progress: Report) -> Settled | None:
    """Return the capture of the neutral texts that the settings ask for, ready for its first row; None if for none.

    The base writes them unless an earlier attempt has stored them. Nothing is written to the disk. Raises StoreError if
    the run has other neutral texts already, ValueError if the model can't write any, or as `settle_loaded` does.
    """
    if (asked := settled.config.neutral) is None:
        return None
    loaded, ranks, place = settled.loaded, settled.ranks, neutral_place(settled.place)
    config, state = neutral_config(settled.config, loaded.facts), ranks.from_leader(run_state(place))
    stored = open_run(place) if state in ("unfinished", "finished") else None
    if stored is not None:
        source = tuple(((stored.attributes.get("provenance") or {}).get("settings") or {}).get("data") or ())
        if source != config.data and IN_RUN in "".join(source + config.data):
            raise StoreError(
                f"`{place.name}` has neutral texts already: {', '.join(map(repr, source)) or 'of unknown origin'}, not "
                f"{config.data[0]!r}; give the same `neutral`, or delete that folder"
            )
    if isinstance(asked, str):
        data = read_data(config)
    elif stored is not None:
        data = Data({}, settled.data.prompts, read_neutral_texts(stored))
    else:
        options: dict[str, Any] = {"seed": config.seed, "batch_tokens": config.batch_tokens}
        options["progress"] = counting(progress, "write neutral texts", "texts")
        texts = write_neutral_texts(loaded.model, loaded.tokenizer, asked, ranks, **options)
        data = Data({}, settled.data.prompts, texts)
    neutral = settle_loaded(config, loaded, data, ranks, place, state)
    if stored is not None:
        require_same_capture(neutral, stored, neutral.provenance())
    return neutral


def _with_fastest_codec(settled: Settled, config: CaptureConfig) -> Settled:
    """Return the capture with the codec that a trial on rank 0 found the fastest."""
    codec, loaded = settled.layout.spec.codec, settled.loaded
    if settled.ranks.leads:
        codec = fastest_codec(config, settled.layout, loaded, settled.place)
    codec = settled.ranks.from_leader(codec)
    layout = settled.layout._replace(spec=dataclasses.replace(settled.layout.spec, codec=codec))
    return dataclasses.replace(settled, config=dataclasses.replace(settled.config, codec=codec), layout=layout)


def settings_to_resume(config: CaptureConfig, provenance: Mapping[str, Any]) -> CaptureConfig:
    """Return the settings to continue a run: with its next-token changes, and its codec unless another is asked for.

    In place of a budget they have the tokens that it chose when the run was begun.

    Raises StoreError if all changes are asked for and the run was begun with fewer.
    """
    settings = provenance.get("settings")
    stored: dict[str, Any] = settings if isinstance(settings, dict) else {}
    changes = stored.get("changes", "none")  # older runs have none
    if config.changes == "all" != changes:
        raise StoreError(
            f"`{config.out}` was begun with `changes` {changes!r}, not 'all'; leave it out, or name a new folder"
        )
    is_codec_kept = config.codec in ("default", "auto") and stored.get("codec") in CODECS
    codec = stored["codec"] if is_codec_kept else config.codec
    tokens = config.tokens if config.budget is None else str(stored.get("tokens", "all"))
    return dataclasses.replace(config, changes=changes, codec=codec, tokens=tokens, budget=None)


def _require_within(budget: str | None, settled: Settled) -> None:
    """Raise StoreError if a run that is continued needs more than the budget, with its neutral texts."""
    needed = estimate(settled.layout.spec).needed_bytes + settled.neutral_bytes
    if budget is not None and needed > parse_size(budget):
        texts = ", with its neutral texts" * (settled.neutral_bytes > 0)
        raise StoreError(
            f"`budget` is {budget!r}, but `{settled.config.out}` was begun with tokens {settled.config.tokens!r} and "
            f"needs {format_size(needed)}{texts}; give as much, or name a new folder"
        )


def require_same_capture(settled: Settled, run: Run, expected: Mapping[str, Any]) -> None:
    """Raise StoreError if another capture began this run, or chunks that were written are missing."""
    out = settled.config.out
    require_same_identity(
        provenance_identity(run.attributes.get("provenance", {})),
        provenance_identity(expected),
        f"`{out}` contains another capture, which this one can't continue",
    )
    asked = settled.layout.spec.adapters[0]
    nulls = f"adapters/{asked.name}/nulls/kl"
    prompts, gradient = f"adapters/{asked.name}/replies/prompt", f"adapters/{asked.name}/importance/gradient"
    stored = run.read_static(prompts).tolist() if prompts in run.arrays else []
    if settled.prompts and list(settled.prompts) != list(dict.fromkeys(stored)):
        raise StoreError(f"`{out}` was begun without these `replies`; give the same ones or none, or name a new folder")
    if asked.importance and (gradient not in run.arrays or run.arrays[gradient].shape != asked.importance):
        raise StoreError(f"`{out}` was begun without this `importance`; leave it out, or name a new folder")
    if asked.n_variants and (nulls not in run.arrays or run.arrays[nulls].shape[1] != asked.n_variants):
        raise StoreError(f"`{out}` was begun without these `null_adapters`; leave them out, or name a new folder")
    # No row is written twice, so a capture can't restore a chunk.
    ranks = settled.ranks
    if lost := ranks.from_leader(missing_chunks(settled.place) if ranks.leads else []):
        raise StoreError(
            f"{len(lost)} chunks that were written into `{out}` are missing, {lost[0]!r} first; "
            "put them back, or capture into a new folder"
        )


def require_same_on_all(ranks: Ranks, identity: Mapping[str, Any]) -> None:
    """Raise StoreError on every rank if one of them captures something else, by an identity of JSON values."""
    first, *others = ranks.gather(identity)
    for rank, other in enumerate(others, start=1):
        what = f"rank {rank} doesn't capture what rank 0 does"
        require_same_identity(first, other, what, "give all processes the same model, adapters, data and settings")


@contextmanager
def _capture_lock(place: Place, ranks: Ranks) -> Iterator[None]:
    """Hold the lock of a run's place within the context; every rank raises OSError if another process has it."""
    with ExitStack() as stack:
        refusal: OSError | None = None
        if ranks.leads:
            try:
                stack.enter_context(run_lock(place))
            except OSError as error:
                refusal = error
        if (refusal := ranks.from_leader(refusal)) is not None:
            raise refusal
        yield


def _stored_settings(config: CaptureConfig) -> dict[str, Any]:
    """Return the settings as a dict for provenance, without later options that change no number of this run.

    With them, older runs would have another fingerprint than the one that they store.
    """
    later = {"replies", "neutral", *(() if config.ablate else ("ablate", "ablate_share"))}
    later |= {name for name in ("importance", "null_adapters") if not getattr(config, name)}
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in later}
