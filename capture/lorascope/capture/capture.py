"""Capture one model with its adapters, over data, into one run; after an interruption the same call continues it."""

import dataclasses
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, overload

import numpy as np

from lorascope.stores import Run, RunWriter, clear_torn, create_run, open_run, resume_run
from lorascope.stores.format.digests import provenance_identity
from lorascope.stores.writing.write import delete_commits

from .buffers.rows import queue_bytes_needed, row_spans
from .config import CaptureConfig
from .errors import Interrupted, collecting_signals
from .recording.expert_sums import count_judged
from .recording.importance import all_gradients
from .recording.layout import make_tables, vocabulary_texts
from .recording.nulls import all_nulls
from .recording.progress import CaptureProgress, Report, progress_bar, report_stage
from .recording.run_model import all_answers, all_replies, all_scores, fill_rows
from .settling.data import Items
from .settling.estimate import estimate, require_space
from .settling.load import settings_in_memory
from .settling.settle import Settled, require_same_on_all, settle, settle_neutral

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
    """Store base (frozen output) and delta (what LoRA adds) of each adapted layer in a run, and return the run.

    Call either `capture(config)`, which names everything, or `capture(model, data, out, tokenizer=...)` with objects in
    memory. The same call continues an interrupted run after its committed rows, and opens a finished one as it is.
    Under torchrun the processes share the rows of one run.

    Parameters
    ----------
    config
        What to capture, from where and to where: a `CaptureConfig`. Or `model`, in memory.
    data
        In memory: anything that `read_items` takes, a list of paths, or items.
    out
        In memory: folder of the run, or an `s3://` address.
    model, tokenizer
        A loaded `PeftModel` and its tokenizer; with a config, they replace those that it names. The active adapter is
        captured, or in stream `base` all adapters. Afterwards the model's training mode, active adapter and
        requires_grad flags are as before.
    progress
        Called with a `CaptureProgress` after every batch, and when a stage without batches begins and ends. In memory,
        None shows a bar in a notebook or on a terminal, and False shows nothing.
    **options
        In memory: settings of `CaptureConfig`, except those on how a model is loaded.

    Raises
    ------
    TypeError
        If an option isn't a setting of `CaptureConfig`, or is given together with a config.
    StoreError
        If `config.out` contains something else, or an interrupted run of another capture (the message names the
        differences), or if the run isn't expected to fit the free space.
    AdapterError
        If an adapter doesn't fit the model, is untrained, merged or disabled, or isn't of a supported kind.
    ValueError, FileNotFoundError
        If the model or a data file can't be read, or a sample can't be captured as it is.
    CaptureError
        If a hook doesn't fire exactly once per pass, or a layer's output isn't its base plus delta.
    FileExistsError
        If another process captures into `config.out`: the message says which one and since when.
    OSError
        If the disk is full or the remote is lost; committed rows stay, and the same call continues later.
    RankError
        If another process of this capture failed: killed, stalled, out of memory, or by an error, which the message
        says. Committed rows stay, and the same call goes on, also with another number of processes.
    Interrupted
        After the first SIGINT or SIGTERM, when the rows in progress are committed. It is a KeyboardInterrupt.

    Notes
    -----
    Nothing is written before all checks have passed, every choice is scored, every answer and reply is written,
    every gradient of the importance is taken and every null adapter is measured.
    """
    if isinstance(config, CaptureConfig):
        if data is not None or out is not None or options:
            name = "data" if data is not None else "out" if out is not None else next(iter(options))
            raise TypeError(f"`{name}` is given together with a `CaptureConfig`; set it there")
        return _capture(config, None, model, tokenizer, progress or None)
    in_memory = model if config is None else config
    if in_memory is None or data is None or out is None or (config is not None and model is not None):
        raise TypeError("give `capture` a `CaptureConfig`, or one `model` with `data`, `out` and `tokenizer`")
    settings, items = settings_in_memory(in_memory, data, out, options)
    with progress_bar() if progress in (None, True) else nullcontext(progress or None) as report:
        return _capture(settings, items, in_memory, tokenizer, report)


def _capture(config: CaptureConfig, items: Items | None, model: Any, tokenizer: Any, progress: Report) -> Run:
    """Capture as `config` says, and return the run; arguments that aren't None replace what `config` names."""
    with settle(config, items, model, tokenizer, progress) as settled:
        if settled.state != "finished":
            _require_room(settled)  # before the base writes texts
        neutral = settle_neutral(settled, progress)  # before anything is written
        if neutral is not None and neutral.state != "finished":
            _require_room(neutral)
        for part in (settled, *([] if neutral is None else [neutral])):
            if part.state != "finished":
                with _open_writer(part, progress) as writer:
                    _write_missing_rows(part, writer, progress)
            elif part.ranks.leads:
                delete_commits(part.place)  # what an interruption right after the last step left
    return open_run(settled.place)


def _open_writer(settled: Settled, progress: Report) -> RunWriter:
    """Return a writer of the run on every rank (process); rank 0 creates the run, or cleans up a stopped one."""
    config, place, ranks, layout = settled.config, settled.place, settled.ranks, settled.layout
    _require_room(settled)
    if settled.state == "unfinished":
        writer = resume_run(place)
        if ranks.leads:
            writer.delete_unfinished_files()
            writer.begin_mesh(ranks.n_tensor)
        ranks.wait()
        return writer
    model, tokenizer, scored = settled.loaded.model, settled.loaded.tokenizer, settled.scored
    options: dict[str, Any] = {"batch_tokens": config.batch_tokens, "with_base": config.score_base}
    answers: tuple[Any, Any] = (None, None)
    scores: tuple[Any, Any] = (None, None)
    if n := config.answer_tokens:
        answers = all_answers(model, tokenizer, scored, ranks, progress, n=n, **options)
    if config.score:
        scores = all_scores(model, scored, ranks, progress, **options)
    weights: dict[str, Any] = layout.weights()
    if prompts := settled.prompts:
        names = settled.loaded.adapters
        weights |= all_replies(model, tokenizer, prompts, names, ranks, progress, batch_tokens=config.batch_tokens)
    if n := config.importance:
        device = settled.loaded.device
        weights |= all_gradients(layout, model, device, ranks, progress, draws=n, batch_tokens=config.batch_tokens)
    if n := config.null_adapters:
        own, device = layout._replace(samples=scored), settled.loaded.device  # with their own answers
        weights |= all_nulls(own, model, device, ranks, progress, n=n, batch_tokens=config.batch_tokens)
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with report_stage(progress, "hash weights"):
        provenance = {**settled.provenance(), "started": started}
    require_same_on_all(ranks, provenance_identity(provenance))
    if not ranks.leads:
        ranks.wait()
        return resume_run(place)
    if settled.state == "torn":
        clear_torn(place)
    with report_stage(progress, "set up"):
        spec = dataclasses.replace(layout.spec, attributes={"provenance": provenance})
        texts = tokenizer.batch_decode(
            [
                [int(token)]
                for sample, positions in zip(layout.samples, layout.plan.positions, strict=True)
                for token in sample.token_ids[positions]
            ]
        )
        tables = make_tables(layout.samples, layout.plan, texts, *scores, *answers, scored=scored)
        if spec.n_vocabulary:
            weights["vocabulary/text"] = vocabulary_texts(tokenizer, spec.n_vocabulary)
        writer = create_run(place, spec, tables=tables, weights=weights)
        writer.begin_mesh(ranks.n_tensor)  # of a model in memory the settings don't say it
    ranks.wait()
    return writer


def _require_room(settled: Settled) -> None:
    """Raise ValueError if the queue is too small for the rows, StoreError if the disk is for what isn't written yet."""
    config, place, layout = settled.config, settled.place, settled.layout
    columns = {"base_scores": config.score and config.score_base, "answers": config.answer_tokens > 0}
    estimated = estimate(layout.spec, **columns, change_share=layout.change_share)
    queue_bytes_needed(estimated.row_sizes(), row_spans(layout.plan.starts, layout.batches), config.queue_bytes)
    written = sum(size for _, size in place.sizes()) if settled.state == "unfinished" else 0
    sizes = {"written_bytes": written, "neutral_bytes": settled.neutral_bytes}
    require_space(estimated, config.out, place.free_bytes(), **sizes, overfill=config.overfill)


def _write_missing_rows(settled: Settled, writer: RunWriter, progress: Report) -> None:
    """Compute and write this rank's share of the rows (1024 tokens each) still missing; rank 0 finishes the run."""
    config, ranks, loaded = settled.config, settled.ranks, settled.loaded
    missing = np.flatnonzero(~ranks.from_leader(writer.committed_rows))
    own = np.zeros(writer.n_rows, dtype=bool)
    own[missing[ranks.own_slice(len(missing))]] = True
    measured = None
    if own.any() or ranks.steps is not None:
        with collecting_signals() as signals:
            streamed = fill_rows(
                settled.layout,
                loaded.model,
                loaded.device,
                writer,
                own,
                config.queue_bytes,
                measure_overhead=config.measure_overhead,
                fills=ranks.writes,
                stop=lambda: ranks.agree_to_stop(bool(signals)),
                progress=progress,
            )
            stopped = ranks.finish_passes(lambda: bool(signals)) or streamed.stopped
        # If other ranks share the capture, a signal after this rank's last batch has stopped them.
        if stopped or (signals and ranks.size > 1):
            n_committed = int(resume_run(settled.place).committed_rows.sum())
            raise Interrupted(
                signals[0] if signals else signal.SIGTERM,
                f"stopped after {n_committed} of {writer.n_rows} rows of `{config.out}`; the same command goes on",
            )
        measured = streamed.measured if own.any() else None
        if measured and streamed.experts:
            measured = {**measured, "experts": streamed.experts}
    ranks.wait()
    parts = [part for part in ranks.gather(measured)[:: ranks.n_tensor] if part is not None]
    if ranks.leads:
        writer.finish({"measured": _combine_measurements(parts)} if parts else {})
    ranks.wait()


def _combine_measurements(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the measurements of all ranks: times of the slowest rank, sums of rows and bytes, judged experts."""
    longest = max(parts, key=lambda part: float(part["seconds"]))
    names = ("rows", "raw_bytes", "stored_bytes", "buffer_bytes", "ablation_passes", "change_passes", "change_tokens")
    summed: dict[str, Any] = {name: sum(part[name] for part in parts) for name in names if name in longest}
    worst = max(part["worst_excess"] for part in parts)
    if "experts" in longest:
        paths = longest["experts"]
        summed["experts"] = {path: count_judged(sum(part["experts"][path] for part in parts)) for path in paths}
    return {**longest, **summed, "worst_excess": worst, "ranks": len(parts)}
