"""The models of a study: one is loaded at a time, and kept while the units that follow need it."""

from functools import cache
from typing import Any

from lorascope.capture import load_model
from lorascope.capture.planning.meta import MetaModel, load_on_meta

from ..grid import Unit
from ..settings import StudySettings
from .recipe import model_source

__all__ = ["Models"]


class Models:
    """Base models by unit, with their shared weights."""

    def __init__(self, settings: StudySettings) -> None:
        self._settings = settings
        self._key: tuple[str, int] | None = None
        self._loaded: tuple[Any, Any] | None = None
        self._outlines = cache(load_on_meta)

    def load(self, unit: Unit) -> tuple[Any, Any]:
        """The base model of a unit and its tokenizer; the model that was loaded before is let go."""
        settings, key = self._settings, (unit.model, unit.share)
        if self._loaded is None or self._key != key:
            self._loaded = None  # before the next one takes its place
            self._loaded = load_model(
                model_source(unit.model, settings),
                dtype=settings.dtype,
                device=settings.device,
                share=unit.share,
                shared_layers=settings.shared_layers,
                share_from=settings.share_from,
            )
            self._key = key
        return self._loaded

    def outline(self, unit: Unit) -> MetaModel:
        """A unit's model without its weights, and its tokenizer."""
        return self._outlines(model_source(unit.model, self._settings))
