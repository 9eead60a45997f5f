"""What a capture has the model do: score choices and write answers, without hooks, and fill rows, with them."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from ..adapters.components import adapted_modules, in_module_order, parts_of
from ..buffers.copies import copier_for
from ..buffers.rows import RowQueue, RowWriter, row_spans
from ..samples.encoded import EncodedSample
from ..samples.generate import Answer, generation_batches, write_answers
from ..samples.scoring import Scores, join_scores, score, score_batches
from ..settling.load import Loaded
from ..settling.prepare import Prepared
from .hooks import Recorder
from .ranks import Ranks
from .reduce import Reducer
from .stream import CaptureProgress, Report, Streamed, stream_states

T = TypeVar("T")


def all_scores(
    prepared: Prepared, loaded: Loaded, ranks: Ranks, progress: Report
) -> tuple[Scores | None, Scores | None]:
    """Scores with and without the adapter; each rank scores its part of the batches."""
    batch_tokens = prepared.config.batch_tokens
    if not prepared.config.score:
        return None, None
    work = partial(score, loaded.model, batch_tokens=batch_tokens)
    batches = score_batches(prepared.scored, batch_tokens=batch_tokens)
    names = ("score", "choice" if any(sample.choices for sample in prepared.scored) else "sample")
    with_adapter, without = _ask(prepared, loaded, ranks, progress, names, prepared.scored, batches, work)
    return join_scores(with_adapter), None if without is None else join_scores(without)


def all_answers(
    prepared: Prepared, loaded: Loaded, ranks: Ranks, progress: Report
) -> tuple[list[Answer] | None, list[Answer] | None]:
    """What the model writes with and without the adapter; shared like scores."""
    n, batch_tokens = prepared.config.answer_tokens, prepared.config.batch_tokens
    if not n:
        return None, None
    asked = [sample for sample in prepared.scored if sample.choices]
    work = partial(write_answers, loaded.model, loaded.tokenizer, n=n, batch_tokens=batch_tokens)
    batches = generation_batches(asked, n=n, batch_tokens=batch_tokens)
    with_adapter, without = _ask(prepared, loaded, ranks, progress, ("answer", "sample"), asked, batches, work)
    return list(chain.from_iterable(with_adapter)), None if without is None else list(chain.from_iterable(without))


def _ask(
    prepared: Prepared,
    loaded: Loaded,
    ranks: Ranks,
    progress: Report,
    names: tuple[str, str],
    samples: Sequence[EncodedSample],
    batches: Sequence[slice],
    work: Callable[..., T],
) -> tuple[list[T], list[T] | None]:
    """What `work` gives of each rank's part of the samples with the adapter and, where asked for, without it."""
    stage, unit = names

    def ask(stage: str) -> list[T]:
        def report(done: int, total: int) -> None:
            if progress is not None:
                progress(CaptureProgress(stage, done, total, unit))

        return ranks.shared(samples, batches, partial(work, progress=report))

    with_adapter = ask(stage)
    if not prepared.config.score_base:
        return with_adapter, None
    with loaded.model.disable_adapter():
        return with_adapter, ask(f"{stage} base")


def fill_rows(
    prepared: Prepared,
    loaded: Loaded,
    writer: RowWriter,
    wanted: np.ndarray,
    queue_bytes: int | None = None,
    **options: Any,
) -> Streamed:
    """Pass every batch with tokens of the wanted rows (row,) and hand these rows to the writer.

    `queue_bytes` is that of `RowQueue`, the options are those of `stream_states`; they say what is raised.
    """
    spec, plan = prepared.spec, prepared.plan
    recorder = Recorder(
        loaded.model,
        prepared.components,
        stream=spec.stream,
        factor_start={adapter.name: adapter.factor_start for adapter in spec.adapters},
        keep_states=spec.states != "none",
        reducer=Reducer() if spec.states != "all" else None,
    )
    with RowQueue(
        writer,
        n_tokens=plan.n_tokens,
        spans=row_spans(plan.starts, prepared.batches),
        queue_bytes=queue_bytes,
        wanted=wanted,
        copier=copier_for(loaded.device),
    ) as rows:
        return stream_states(
            loaded.model,
            recorder,
            prepared.samples,
            plan,
            prepared.batches,
            rows,
            device=loaded.device,
            kl_batches=plan.kl_batches if spec.kl else None,
            parts=_parts(prepared, loaded),
            measure_overhead=prepared.config.measure_overhead,
            **options,
        )


def _parts(prepared: Prepared, loaded: Loaded) -> list[list[Any]]:
    """PEFT's layers of each part that an ablation leaves out, in the order of the run's parts; empty without one."""
    if prepared.spec.ablate is None:
        return []
    (adapter,) = prepared.components
    layers = adapted_modules(loaded.model, adapter)
    parts = parts_of(in_module_order(prepared.components), prepared.spec.ablate)
    return [[layers[path][1] for path in paths] for paths in parts.values()]
