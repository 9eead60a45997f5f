"""Settle a capture: everything that is decided, opened and loaded before the first row, from the configuration."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from lorascope.stores import Place, Run, StoreError, open_place, open_run, run_state
from lorascope.stores.format.digests import provenance_identity
from lorascope.stores.places.file_lock import run_lock
from lorascope.stores.process import keeping_freed_memory
from lorascope.stores.reading.read import missing_chunks
from lorascope.stores.reading.state import RunState
from lorascope.stores.reading.token_choice import describe_population

from ..config import CaptureConfig
from ..models.adapter import adapter_identity, scaling_identity
from ..models.components import chosen_components
from ..models.device import Ranks, joined, local_rank, named_device, require_device
from ..models.model import tokenizer_identity
from ..models.passes import Pass, isolated
from ..models.preflight import Note, inspect
from ..models.refusal import require
from ..models.training_record import base_notes
from ..models.unembedding import FinalNorm, final_norm, unembedding_values
from ..models.weights import hashing_in_thread
from ..recording.forward import probe, probe_samples
from ..recording.hooks import Recorder
from ..recording.layout import Layout
from ..recording.progress import Report, report_stage
from ..samples.encode import require_known_tokens
from ..samples.encoded import EncodedSample, pad
from ..samples.generate import generate, generation_batches
from ..samples.hub import hub_source
from .data import Data, data_notes, encode_data, read_data
from .in_memory import Items
from .inputs import require_inputs
from .lay_out import lay_out, with_chosen_tokens
from .load import Loaded, load, read_trainings
from .provenance import data_fingerprint, device_description, library_versions
from .resume import require_same
from .trial import fastest_codec


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A capture before its first row: its place is opened, its model loaded, its layout and codec are chosen."""

    config: CaptureConfig
    """The settings as the run keeps them: with the tokens that a budget and the codec that a trial chose."""
    place: Place
    state: RunState
    """State of the run at this place."""
    ranks: Ranks
    loaded: Loaded
    data: Data
    scored: tuple[EncodedSample, ...]
    """The samples as they came, before generated tokens took the place of their answers: these are scored."""
    layout: Layout
    norm: FinalNorm | None
    """The model's final norm, where its unembedding is stored."""
    notes: tuple[Note, ...]
    """Notes of the preflight."""
    omitted: Mapping[str, int]
    """File -> number of items that the limit left out."""

    def provenance(self) -> dict[str, Any]:
        """Everything that shaped the numbers, and notes for a reader, as JSON values; waits for the weights' hash."""
        config, loaded = self.config, self.loaded
        model = loaded.whole_identity()
        trainings = read_trainings(loaded.model, loaded.folders, model)
        unproven = [name for name in loaded.adapters if not (name in trainings and trainings[name].is_proven)]
        notes = [*self.notes, *(note for training in trainings.values() for note in training.notes)]
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
            "preflight": [note.as_dict() for note in notes],
            "omitted_items": dict(self.omitted),
        }

    def weights(self) -> dict[str, Any]:
        """The adapters' weights and, where it is stored, the unembedding, by their paths in the run."""
        model = self.loaded.model
        stored = {} if self.norm is None else unembedding_values(model, self.loaded.tokenizer, self.norm)
        return {**stored, **self.layout.weights(model)}


@contextmanager
def settle(
    config: CaptureConfig, items: Items | None, model: Any, tokenizer: Any, progress: Report
) -> Iterator[Settled]:
    """Settle a capture; while this lasts nobody else captures at its place, and the model is in evaluation mode.

    Items and a loaded model, where there are any, take the place of those that the settings name. What is raised is
    listed under `capture`.
    """
    require_inputs(config, model_given=model is not None, data_given=items is not None)
    device = named_device(config.device, local_rank=local_rank())
    place = open_place(config.out)
    with joined(device) as ranks, keeping_freed_memory(), _locked(place, ranks), hashing_in_thread() as hashing:
        require_device(device)
        state = ranks.of_leader(run_state(place))
        unfinished = open_run(place) if state in {"unfinished", "finished"} else None
        if unfinished is not None:
            config = _of_begun_run(config, unfinished)
        data = read_data(config.data, config.prompt, config.examples, seed=config.seed, items=items)
        with report_stage(progress, "load model") if model is None else nullcontext():
            loaded = load(config, device, model, tokenizer, hashing)
        with isolated(loaded.model, loaded.device):
            with report_stage(progress, "check"):
                settled = settle_loaded(config, loaded, data, ranks, place, state)
                if config.codec == "auto":
                    settled = _with_fastest_codec(settled, config)
            if unfinished is not None:
                with report_stage(progress, "hash weights"):
                    expected = settled.provenance()
                _require_begun_run(settled, unfinished, expected)
            yield settled


def settle_loaded(
    config: CaptureConfig, loaded: Loaded, data: Data, ranks: Ranks, place: Place, state: RunState
) -> Settled:
    """Settle a capture of a loaded model: check model, adapters and samples, and lay the run out; nothing is written.

    Raises
    ------
    AdapterError
        If an adapter can't be measured on this model.
    CaptureError
        If a hook doesn't fire exactly once in a probe pass, or a layer's output isn't its base plus delta.
    ValueError
        If a sample can't be captured as it is, or the budget doesn't suffice for a token of each sample.
    """
    model, device = loaded.model, loaded.device
    scored, omitted = encode_data(data, model, loaded.tokenizer, window_tokens=config.window_tokens, limit=config.limit)
    require_known_tokens(model, scored)
    input_ids, attention_mask = pad(probe_samples(model, scored[0]))
    inputs = {"input_ids": input_ids.to(device), "attention_mask": attention_mask.to(device)}
    preflight = inspect(model, loaded.adapters, stream=config.stream, allow_zero=config.allow_zero, probe=inputs)
    require(preflight.problems, ", ".join(loaded.adapters))
    samples = _generated(scored, model, ranks, config.generate, config.batch_tokens) if config.generate else scored
    components = chosen_components(model, loaded.adapters, config.component, skip=preflight.skipped)
    recorder = Recorder(model, components, stream=config.stream)
    dtypes = probe(model, recorder, probe_samples(model, samples[0]), device)
    layout, norm = lay_out(config, model, samples, components, dtypes, device), None
    if layout.spec.unembedding is not None:
        with Pass("base", None).enabled(model):
            norm = final_norm(model, inputs)
        unembedding = dataclasses.replace(layout.spec.unembedding, centred=norm.centred)
        layout = layout._replace(spec=dataclasses.replace(layout.spec, unembedding=unembedding))
    return Settled(
        config=with_chosen_tokens(config, layout),
        place=place,
        state=state,
        ranks=ranks,
        loaded=loaded,
        data=data,
        scored=tuple(scored),
        layout=layout,
        norm=norm,
        notes=preflight.notes,
        omitted=omitted,
    )


def _generated(
    samples: list[EncodedSample], model: Any, ranks: Ranks, n: int, batch_tokens: int
) -> list[EncodedSample]:
    """The samples with tokens that the model writes itself, each rank's part of them by that rank."""
    batches = generation_batches(samples, n=n, batch_tokens=batch_tokens)
    parts = ranks.shared(samples, batches, lambda part: generate(model, part, n=n, batch_tokens=batch_tokens))
    return [sample for part in parts for sample in part]


def _with_fastest_codec(settled: Settled, config: CaptureConfig) -> Settled:
    """The capture with the codec that is the fastest here, by a trial of the leader."""
    codec, loaded = settled.layout.spec.codec, settled.loaded
    if settled.ranks.leads:
        codec = fastest_codec(config, settled.layout, loaded.model, loaded.device, settled.place)
    codec = settled.ranks.of_leader(codec)
    layout = settled.layout._replace(spec=dataclasses.replace(settled.layout.spec, codec=codec))
    return dataclasses.replace(settled, config=dataclasses.replace(settled.config, codec=codec), layout=layout)


def _of_begun_run(config: CaptureConfig, run: Run) -> CaptureConfig:
    """The settings to continue a run: with the run's own codec, unless another one is asked for."""
    if config.unembedding and "unembedding/weight" not in run.arrays:
        raise StoreError(f"`{config.out}` was begun without `unembedding`; leave it out, or name a new folder")
    return with_stored_codec(config, run.attributes.get("provenance", {}))


def with_stored_codec(config: CaptureConfig, provenance: Mapping[str, Any]) -> CaptureConfig:
    """The settings with the codec in this provenance, unless a certain other codec is asked for."""
    settings = provenance.get("settings")
    stored = settings.get("codec") if isinstance(settings, dict) else None
    if config.codec in ("default", "auto") and stored in ("default", "zstd", "lz4", "raw"):
        return dataclasses.replace(config, codec=stored)
    return config


def _require_begun_run(settled: Settled, run: Run, expected: Mapping[str, Any]) -> None:
    """Raise a StoreError unless the run was begun by this very capture, and has all chunks that were written."""
    out = settled.config.out
    require_same(
        provenance_identity(run.attributes.get("provenance", {})),
        provenance_identity(expected),
        f"`{out}` holds another capture, which this one can't continue",
    )
    # No row is written twice, so that capture can't bring a chunk back.
    ranks = settled.ranks
    if lost := ranks.of_leader(missing_chunks(settled.place) if ranks.leads else []):
        raise StoreError(
            f"{len(lost)} chunks that were written into `{out}` are missing, {lost[0]!r} first; "
            "put them back, or capture into a new folder"
        )


@contextmanager
def _locked(place: Place, ranks: Ranks) -> Iterator[None]:
    """Only these ranks capture at this place; where another process does, each of them raises its refusal."""
    with ExitStack() as stack:
        refusal: OSError | None = None
        if ranks.leads:
            try:
                stack.enter_context(run_lock(place))
            except OSError as error:
                refusal = error
        if (refusal := ranks.of_leader(refusal)) is not None:
            raise refusal
        yield


def _stored_settings(config: CaptureConfig) -> dict[str, Any]:
    """Settings as a run keeps them; where they shape no number, those that older versions don't know stay out.

    Else these would take another fingerprint of the run than is in it.
    """
    later = {"unembedding", *(() if config.ablate else ("ablate", "ablate_share"))}
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in later}
