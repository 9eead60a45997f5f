"""Capture: one model, its adapters, its data, into one run; killed anywhere, the same call goes on."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, overload

import numpy as np

from lorascope.stores import (
    Run,
    RunWriter,
    StoreError,
    clear_torn,
    create_run,
    open_place,
    open_run,
    resume_run,
    run_state,
)
from lorascope.stores.allocator import freed_memory_kept
from lorascope.stores.format.fingerprint import identity
from lorascope.stores.places.file_lock import run_lock
from lorascope.stores.reading.read import missing_chunks

from .adapters.passes import alone
from .buffers.rows import queue_bytes_needed, row_spans
from .config import CaptureConfig
from .errors import Interrupted, listening
from .models.device import named_device, require_device
from .models.hashes import hashing_beside
from .recording.progress import progress_bar
from .recording.ranks import Ranks, joined
from .recording.run_model import all_answers, all_scores, fill_rows
from .recording.stream import CaptureProgress, one_step
from .samples.tables import make_tables
from .settling.codec import with_stored_codec, with_tried_codec
from .settling.estimate import estimate, require_space
from .settling.in_memory import Given, settings_of
from .settling.inputs import require_inputs
from .settling.load import Loaded, load
from .settling.prepare import Prepared, prepare, read_files
from .settling.resume import require_same

ProgressCallback = Callable[[CaptureProgress], None]


@overload
def capture(
    config: CaptureConfig, /, *, model: Any = None, tokenizer: Any = None, progress: ProgressCallback | None = None
) -> Run: ...


@overload
def capture(
    model: Any,
    data: Any,
    out: str | Path,
    *,
    tokenizer: Any,
    progress: ProgressCallback | bool | None = None,
    **options: Any,
) -> Run: ...


def capture(
    config: Any = None,
    /,
    data: Any = None,
    out: Any = None,
    *,
    model: Any = None,
    tokenizer: Any = None,
    progress: Any = None,
    **options: Any,
) -> Run:
    """Capture base and delta of every LoRA-wrapped layer into a run, and return the run.

    Either `capture(config)`, where everything is named, or `capture(model, data, out, tokenizer=...)` of what is in
    memory. A run that was interrupted goes on after its committed rows when the same is asked for again; one that is
    finished is opened as it is. Under torchrun the processes share the rows of one run.

    Parameters
    ----------
    config
        What to capture, from where and to where: a `CaptureConfig`. Or `model`, in memory.
    data
        In memory: whatever `read_items` takes, a list of paths, or items that were read.
    out
        In memory: folder of the run, or an `s3://` address.
    model, tokenizer
        A `PeftModel` and its tokenizer, already loaded; beside a config, instead of those that it names. Its active
        adapter is captured, in stream `base` all of its adapters. The model's training mode, its active adapter and its
        requires_grad flags are afterwards as they were.
    progress
        Called with a `CaptureProgress` after every batch, and when a stage without batches begins and ends. In memory,
        None shows a bar in a notebook or on a terminal, and False none.
    **options
        In memory: settings of `CaptureConfig`, but for those of how a model is loaded.

    Raises
    ------
    TypeError
        If an option is none of `CaptureConfig`, or stands beside a config.
    StoreError
        If `config.out` holds something else, or an interrupted run of another capture: then the differences are named;
        or if the run is expected not to fit the free space.
    AdapterError
        If an adapter doesn't fit the model, is untrained, merged or disabled, or isn't of a supported kind.
    ValueError, FileNotFoundError
        If the model or a data file can't be read, or a sample can't be captured as it is.
    CaptureError
        If a hook doesn't fire exactly once a pass, or a layer's output isn't its base plus delta.
    FileExistsError
        If another process captures into `config.out`: the message says which one and since when.
    OSError
        If the disk is full or the remote is lost; committed rows stay, and the same call goes on later.
    Interrupted
        After the first SIGINT or SIGTERM, when the rows in progress are committed. It is a KeyboardInterrupt.

    Notes
    -----
    Nothing is written before all checks have passed, every choice is scored and every answer is given.
    """
    if isinstance(config, CaptureConfig):
        if data is not None or out is not None or options:
            name = "data" if data is not None else "out" if out is not None else next(iter(options))
            raise TypeError(f"`{name}` stands beside a `CaptureConfig`, which says it; set it there")
        return _capture(config, None, model, tokenizer, progress or None)
    given = model if config is None else config
    if given is None or data is None or out is None or (config is not None and model is not None):
        raise TypeError("give `capture` a `CaptureConfig`, or one `model` with `data`, `out` and `tokenizer`")
    settings, items = settings_of(given, data, out, options)
    with progress_bar() if progress in (None, True) else nullcontext(progress or None) as report:
        return _capture(settings, items, given, tokenizer, report)


def _capture(
    config: CaptureConfig, given: Given | None, model: Any, tokenizer: Any, progress: ProgressCallback | None
) -> Run:
    """Capture what the settings name, or in its place items and a model that are given."""
    require_inputs(config, model_given=model is not None, data_given=given is not None)
    with joined(config.device) as ranks, freed_memory_kept(), _alone_at(config.out, ranks), hashing_beside() as hashing:
        require_device(named_device(config.device, local_rank=ranks.local_rank))
        state = ranks.of_leader(run_state(config.out))
        begun = open_run(config.out) if state in {"unfinished", "finished"} else None
        stored = None if begun is None else begun.attributes.get("provenance", {})
        config = config if stored is None else with_stored_codec(config, stored)
        if begun is not None and config.unembedding and "unembedding/weight" not in begun.arrays:
            raise StoreError(f"`{config.out}` was begun without `unembedding`; leave it out, or name a new folder")
        files = read_files(config, given)
        with one_step(progress, "load model") if model is None else nullcontext():
            loaded = load(config, model, tokenizer, ranks, hashing)
        with alone(loaded.model, loaded.device):
            with one_step(progress, "check"):
                prepared = with_tried_codec(prepare(config, loaded, files, ranks), config, loaded, ranks)
            if stored is not None:
                with one_step(progress, "hash weights"):
                    wanted = prepared.provenance()
                require_same(
                    identity(stored),
                    identity(wanted),
                    f"`{config.out}` holds another capture, which this one can't go on with",
                )
                # No row is written twice, so that capture can't bring a chunk back.
                if gone := ranks.of_leader(missing_chunks(config.out) if ranks.leads else []):
                    raise StoreError(
                        f"{len(gone)} chunks that were written into `{config.out}` have gone since, {gone[0]!r} first; "
                        "put them back, or capture into a new folder"
                    )
            if state != "finished":
                # Before anything is scored or written.
                sizes = estimate(prepared.spec).row_sizes()
                queue_bytes_needed(sizes, row_spans(prepared.plan.starts, prepared.batches), config.queue_bytes)
                with _open_writer(prepared, loaded, state, ranks, progress) as writer:
                    _fill(prepared, loaded, writer, ranks, progress)
    return open_run(config.out)


@contextmanager
def _alone_at(out: str, ranks: Ranks) -> Iterator[None]:
    """Nobody but these ranks captures into a run's folder; where another process does, each of them is refused."""
    with ExitStack() as held:
        refusal: OSError | None = None
        if ranks.leads:
            try:
                held.enter_context(run_lock(out))
            except OSError as error:
                refusal = error
        if (refusal := ranks.of_leader(refusal)) is not None:
            raise refusal
        yield


def _open_writer(
    prepared: Prepared, loaded: Loaded, state: str, ranks: Ranks, progress: ProgressCallback | None
) -> RunWriter:
    """The run's writer on every rank; the leader sets it up, or sweeps what an interruption left."""
    config, out, place = prepared.config, prepared.config.out, open_place(prepared.config.out)
    require_space(
        estimate(prepared.spec, base_scores=config.score and config.score_base, answers=config.answer_tokens > 0),
        out,
        place.free_bytes(),
        written_bytes=sum(size for _, size in place.sizes()) if state == "unfinished" else 0,
        overfill=config.overfill,
    )
    if state == "unfinished":
        writer = resume_run(out)
        if ranks.leads:
            writer.sweep()
        ranks.wait()
        return writer
    answers = all_answers(prepared, loaded, ranks, progress)
    scores = all_scores(prepared, loaded, ranks, progress)
    if not ranks.leads:
        ranks.wait()
        return resume_run(out)
    if state == "torn":
        clear_torn(out)
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with one_step(progress, "hash weights"):
        provenance = {**prepared.provenance(), "started": started}
    with one_step(progress, "set up"):
        spec = dataclasses.replace(prepared.spec, attributes={"provenance": provenance})
        texts = loaded.tokenizer.batch_decode(
            [[int(t)] for s, p in zip(prepared.samples, prepared.plan.positions, strict=True) for t in s.token_ids[p]]
        )
        tables = make_tables(prepared.samples, prepared.plan, texts, *scores, *answers, scored=prepared.scored)
        writer = create_run(out, spec, tables=tables, weights=prepared.weights(loaded.model, loaded.tokenizer))
    ranks.wait()
    return writer


def _fill(
    prepared: Prepared, loaded: Loaded, writer: RunWriter, ranks: Ranks, progress: ProgressCallback | None
) -> None:
    """Write this rank's part of the missing rows, and finish the run once every rank has."""
    config = prepared.config
    missing = np.flatnonzero(~ranks.of_leader(writer.committed_rows))
    wanted = np.zeros(writer.n_rows, dtype=bool)
    wanted[missing[ranks.share(len(missing))]] = True
    measured = None
    if wanted.any():
        with listening() as heard:
            streamed = fill_rows(
                prepared, loaded, writer, wanted, config.queue_bytes, stop=lambda: bool(heard), progress=progress
            )
        # Where others share the capture, a signal that came after this rank's last batch has stopped them.
        if heard and (streamed.stopped or ranks.size > 1):
            n_done = int(resume_run(config.out).committed_rows.sum())
            raise Interrupted(
                heard[0],
                f"stopped after {n_done} of {writer.n_rows} rows of `{config.out}`; the same command goes on",
            )
        measured = streamed.measured
    ranks.wait()
    parts = [part for part in ranks.gather(measured) if part is not None]
    if ranks.leads:
        writer.finish({"measured": _add_up(parts)} if parts else {})
    ranks.wait()


def _add_up(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What every rank measured, as one: the times of the slowest, and bytes added up."""
    longest = max(parts, key=lambda part: float(part["seconds"]))
    names = ("rows", "raw_bytes", "stored_bytes", "buffer_bytes", "ablation_passes")
    summed = {name: sum(part[name] for part in parts) for name in names if name in longest}
    worst = max(part["worst_excess"] for part in parts)
    return {**longest, **summed, "worst_excess": worst, "ranks": len(parts)}
