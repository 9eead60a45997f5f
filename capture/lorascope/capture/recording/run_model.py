"""The model's work in a capture: scores, answers and replies without hooks, and rows filled with hooks."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch

from lorascope.stores.format.tables import REPLY_SCALES

from ..buffers.copies import copier_for
from ..buffers.rows import RowQueue, RowWriter, row_spans
from ..models.passes import scaled_adapter
from ..models.ranks import Ranks
from ..samples.encoded import EncodedSample
from ..samples.generate import Answer, generate, generation_batches, write_answers
from ..samples.replies import LEAST_BATCH_TOKENS, REPLY_TOKENS, as_question, reply_columns
from ..samples.scoring import Scores, join_scores, score, score_batches
from .hooks import Recorder
from .layout import Layout
from .progress import Report, counting
from .reduce import Reducer
from .stream import Streamed, stream_states

T = TypeVar("T")


def all_scores(
    model: Any, samples: Sequence[EncodedSample], ranks: Ranks, progress: Report, *, batch_tokens: int, with_base: bool
) -> tuple[Scores, Scores | None]:
    """Return the samples' scores with the adapter and, if `with_base`, without it; processes share the batches.

    The processes of a capture are its `ranks`.
    """
    work = partial(score, model, batch_tokens=batch_tokens)
    batches = score_batches(samples, batch_tokens=batch_tokens)
    units = "choices" if any(sample.choices for sample in samples) else "samples"
    adapted, base = _with_and_without(
        model, ranks, progress, samples, batches, work, stage="score", units=units, with_base=with_base
    )
    return join_scores(adapted), None if base is None else join_scores(base)


def all_answers(
    model: Any,
    tokenizer: Any,
    samples: Sequence[EncodedSample],
    ranks: Ranks,
    progress: Report,
    *,
    n: int,
    batch_tokens: int,
    with_base: bool,
) -> tuple[list[Answer], list[Answer] | None]:
    """Return the answers of at most n tokens that the model writes with and, if `with_base`, without the adapter.

    Every rank, one of the processes of a capture, writes its part.
    """
    questions = [sample for sample in samples if sample.choices]
    work = partial(write_answers, model, tokenizer, n=n, batch_tokens=batch_tokens)
    batches = generation_batches(questions, n=n, batch_tokens=batch_tokens)
    adapted, base = _with_and_without(
        model, ranks, progress, questions, batches, work, stage="answer", units="samples", with_base=with_base
    )
    return list(chain.from_iterable(adapted)), None if base is None else list(chain.from_iterable(base))


def all_replies(
    model: Any,
    tokenizer: Any,
    prompts: Mapping[str, EncodedSample],
    adapters: Sequence[str],
    ranks: Ranks,
    progress: Report,
    *,
    batch_tokens: int,
) -> dict[str, Any]:
    """Return path in the run -> column (reply,) of what the model replies greedily to each of the `prompts`.

    It replies without adapter and with each one at each of `REPLY_SCALES`, and every reply is scored under all of
    these. Ranks, the processes of a capture, share the batches. Raises ValueError if logits aren't finite.
    """
    samples = list(prompts.values())

    def share(
        what: str, adapter: str, scale: float, items: Sequence[EncodedSample], batches: Sequence[slice], work: Any
    ) -> Any:
        """Run `work` on the batches, shared by ranks, with the adapter at this scale; return each rank's result."""
        report = counting(progress, f"{what} at scale {scale:g}", "replies")
        try:
            with scaled_adapter(model, adapter, scale):
                return ranks.map_batches(items, batches, partial(work, model, progress=report))
        except ValueError as error:
            raise ValueError(f"`replies` at {scale:g} times the scale of adapter {adapter!r}: {error}") from error

    def write(adapter: str, scale: float) -> list[EncodedSample]:
        """Return the prompts with the replies that the model writes at this scale of the adapter."""
        options: dict[str, Any] = {"n": REPLY_TOKENS, "batch_tokens": max(batch_tokens, LEAST_BATCH_TOKENS)}
        batches, work = generation_batches(samples, **options), partial(generate, **options)
        return list(chain.from_iterable(share("reply", adapter, scale, samples, batches, work)))

    columns: dict[str, Any] = {}
    by_base = write(adapters[0], REPLY_SCALES[0])
    for name in adapters:
        written = [by_base, *(write(name, scale) for scale in REPLY_SCALES[1:])]
        questions = [as_question(replies) for replies in zip(*written, strict=True)]
        batches = score_batches(questions, batch_tokens=batch_tokens)
        work = partial(score, batch_tokens=batch_tokens)
        scores = [share("score replies", name, scale, questions, batches, work) for scale in REPLY_SCALES]
        logliks = [join_scores(parts).loglik for parts in scores]
        table = reply_columns(list(prompts), questions, logliks, model, tokenizer)
        columns |= {f"adapters/{name}/replies/{column}": values for column, values in table.items()}
    return columns


def _with_and_without(
    model: Any,
    ranks: Ranks,
    progress: Report,
    samples: Sequence[EncodedSample],
    batches: Sequence[slice],
    work: Callable[..., T],
    *,
    stage: str,
    units: str,
    with_base: bool,
) -> tuple[list[T], list[T] | None]:
    """Run `work` on the samples, shared by ranks, with the adapter and, if `with_base`, without it.

    Each result is a list with one entry per rank that has samples; the second is None without `with_base`.
    """

    def run(stage: str) -> list[T]:
        """Run `work` on every rank's part of the batches, report its progress as `stage`, and return all results."""
        return ranks.map_batches(samples, batches, partial(work, progress=counting(progress, stage, units)))

    adapted = run(stage)
    if not with_base:
        return adapted, None
    with model.disable_adapter():
        return adapted, run(f"{stage} base")


def fill_rows(
    layout: Layout,
    model: Any,
    device: torch.device,
    writer: RowWriter,
    rows: np.ndarray,
    queue_bytes: int | None = None,
    *,
    fills: bool = True,
    **options: Any,
) -> Streamed:
    """Run the model with hooks on all batches with tokens of the chosen rows (1024 tokens each); write these rows.

    `rows` is bool (row,).

    `queue_bytes` and `fills` are those of `RowQueue`; the other options and the errors are those of `stream_states`.
    """
    spec, plan = layout.spec, layout.plan
    recorder = Recorder(
        layout.components,
        stream=spec.stream,
        factor_start={adapter.name: adapter.factor_start for adapter in spec.adapters},
        keep_states=spec.states != "none",
        reducer=Reducer() if spec.states != "all" else None,
    )
    with RowQueue(
        writer,
        n_tokens=plan.n_tokens,
        spans=row_spans(plan.starts, layout.batches),
        queue_bytes=queue_bytes,
        rows=rows,
        copier=copier_for(device),
        fills=fills,
    ) as queue:
        return stream_states(model, recorder, layout, queue, device=device, **options)
