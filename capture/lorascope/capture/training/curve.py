"""What a training's log says of MIUB, as the record of a fine-tuning keeps it."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, zip_longest
from typing import Any, NamedTuple

from ..samples.encode import EncodedSample

__all__ = ["MiubCurve", "MiubStep", "few_of_each", "miub_curve"]

LAYER, KIND = "miub_layer_", "miub_kind_"


class MiubStep(NamedTuple):
    """MIUB after so many optimiser steps."""

    step: int
    miub: float
    """Nats."""
    ce: float | None
    """Mean over samples of the cross-entropy of their targets, nats per token."""
    layers: tuple[float, ...]
    """Part of each layer, nats."""
    kinds: tuple[float, ...]
    """Part of each kind of component, nats."""
    seconds: float
    """Wall time of measuring it."""


class MiubCurve(NamedTuple):
    """MIUB during a training, on samples that it didn't see."""

    unit: str
    """`nat`."""
    samples: tuple[tuple[str, str], ...]
    """Data set and id of each sample that it was measured on."""
    n_tokens: int
    """Tokens of those, all of which count."""
    layers: tuple[int, ...]
    """Layers with components, as every step has them."""
    kinds: tuple[str, ...]
    """Kinds of components, as every step has them."""
    steps: tuple[MiubStep, ...]
    seconds: float
    """Wall time of all measurements."""
    share: float
    """Wall time of all measurements over that of the training, which includes it."""

    def as_dict(self) -> dict[str, Any]:
        """The curve as JSON has it."""
        return {**self._asdict(), "steps": [step._asdict() for step in self.steps]}


def few_of_each(samples: Iterable[EncodedSample], n: int) -> list[EncodedSample]:
    """The first of each data set in turn, n in all or as many as there are.

    Examples
    --------
    >>> from types import SimpleNamespace as Sample
    >>> [sample.id for sample in few_of_each([Sample(dataset=i[0], id=i) for i in ("a1", "a2", "a3", "b1")], 3)]
    ['a1', 'b1', 'a2']
    """
    sets: dict[str, list[EncodedSample]] = {}
    for sample in samples:
        sets.setdefault(sample.dataset, []).append(sample)
    rounds = (sample for turn in zip_longest(*sets.values()) for sample in turn if sample is not None)
    return list(islice(rounds, n))


def miub_curve(
    history: Sequence[Mapping[str, Any]], samples: Sequence[EncodedSample], train_seconds: float
) -> MiubCurve:
    """The curve of a training that has ended, from `state.log_history`, the callback's samples, and its wall time."""
    entries = [entry for entry in history if "miub" in entry]
    layers, kinds = ([key for key in entries[-1] if key.startswith(start)] for start in (LAYER, KIND))
    seconds = sum(entry["miub_seconds"] for entry in entries)
    return MiubCurve(
        unit="nat",
        samples=tuple((sample.dataset, sample.id) for sample in samples),
        n_tokens=sum(len(sample.token_ids) for sample in samples),
        layers=tuple(int(key.removeprefix(LAYER)) for key in layers),
        kinds=tuple(key.removeprefix(KIND) for key in kinds),
        steps=tuple(
            MiubStep(
                step=entry["step"],
                miub=entry["miub"],
                ce=entry.get("ce"),
                layers=tuple(entry[key] for key in layers),
                kinds=tuple(entry[key] for key in kinds),
                seconds=entry["miub_seconds"],
            )
            for entry in entries
        ),
        seconds=seconds,
        share=seconds / train_seconds,
    )
