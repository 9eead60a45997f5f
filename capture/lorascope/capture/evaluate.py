"""What a capture asks the model before any hook is on: scores of the choices, and its own answers."""

from collections.abc import Callable, Sequence

from .load import Loaded
from .prepare import Prepared
from .ranks import Ranks
from .recording.stream import CaptureProgress
from .samples.encode import EncodedSample
from .samples.generate import Answer, generation_batches, write_answers
from .samples.scoring import Scores, join_scores, score, score_batches

__all__ = ["all_answers", "all_scores"]


def all_scores(
    prepared: Prepared, loaded: Loaded, ranks: Ranks, progress: Callable[[CaptureProgress], None] | None
) -> tuple[Scores | None, Scores | None]:
    """Scores with and without the adapter, before any hook is on; each rank scores its part of the batches."""
    config, model = prepared.config, loaded.model
    if not config.score:
        return None, None

    batches = score_batches(prepared.scored, batch_tokens=config.batch_tokens)

    def score_all(stage: str) -> Scores:
        def report(done: int, total: int) -> None:
            if progress is not None:
                progress(CaptureProgress(stage, done, total, "choice"))

        def work(part: Sequence[EncodedSample]) -> Scores:
            return score(model, part, batch_tokens=config.batch_tokens, progress=report)

        return join_scores(ranks.shared(prepared.scored, batches, work))

    adapted = score_all("score")
    if not config.score_base:
        return adapted, None
    with model.disable_adapter():
        return adapted, score_all("score base")


def all_answers(
    prepared: Prepared, loaded: Loaded, ranks: Ranks, progress: Callable[[CaptureProgress], None] | None
) -> tuple[list[Answer] | None, list[Answer] | None]:
    """What the model writes with and without the adapter; shared like scores."""
    n, batch_tokens = prepared.config.answer_tokens, prepared.config.batch_tokens
    if not n:
        return None, None
    asked = [sample for sample in prepared.scored if sample.choices]
    batches = generation_batches(asked, n=n, batch_tokens=batch_tokens)

    def answer_all(stage: str) -> list[Answer]:
        def report(done: int, total: int) -> None:
            if progress is not None:
                progress(CaptureProgress(stage, done, total, "sample"))

        def work(part: Sequence[EncodedSample]) -> list[Answer]:
            return write_answers(loaded.model, loaded.tokenizer, part, n=n, batch_tokens=batch_tokens, progress=report)

        return [answer for part in ranks.shared(asked, batches, work) for answer in part]

    adapted = answer_all("answer")
    if not prepared.config.score_base:
        return adapted, None
    with loaded.model.disable_adapter():
        return adapted, answer_all("answer base")
