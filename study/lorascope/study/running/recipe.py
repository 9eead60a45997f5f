"""The recipe of a unit: everything that its results depend on, as JSON; and the check that its inputs exist."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from lorascope.capture.config import CaptureConfig, FinetuneConfig
from lorascope.capture.models.source import locate_model
from lorascope.capture.samples.prompt import read_template
from lorascope.capture.samples.sources import require_data
from lorascope.stores.format.digests import FREE_SETTINGS

from ..demo_inputs import demo_model
from ..grid import Unit
from ..settings import StudySettings
from .data import PROMPTS_RUN, TEST_RUN, TaskData, data_source, items_hash

VERSION = 1
"""Version of recipes; raised when the same settings give other numbers."""
NOT_IN_RECIPE = (FREE_SETTINGS | {"score_base", "codec"}) - {"prompt", "share", "shared_layers", "share_from"}
"""Settings of a capture that change no number, or are paths; a recipe has hashes of what these name."""


def unit_recipe(unit: Unit, settings: StudySettings, data: TaskData) -> dict[str, Any]:
    """Return the recipe of a unit (adapter): all that its results depend on, as JSON values by step.

    The steps are `train`, each run by its name, and `measure`. Raises FileNotFoundError or ValueError if the model
    doesn't exist, or a setting isn't allowed.
    """
    recipe: dict[str, Any] = {
        "train": {
            "version": VERSION,
            "model": _model_hashes(model_source(unit.model, settings)),
            "dtype": settings.dtype,
            "sharing": [unit.share, settings.shared_layers, settings.share_from] if unit.share > 1 else [1],
            "config": _changed_settings(finetune_config(unit, settings)),
            "items": items_hash(data.train),
            "probe": items_hash(data.probe),
        }
    }
    names: list[str] = []
    for name, run in data.runs.items():
        templates = [read_template(prompt) for prompt in prompt_sources(run.prompts, settings)]
        named = tuple(template.name for template in templates)
        if twice := [name for name in named if [*names, *named].count(name) > 1]:
            raise ValueError(f"two prompts are named {min(twice)!r}; results would mix them: rename a file")
        names += named
        config = dataclasses.replace(capture_config(unit, settings, data, run=name), prompt=named)
        recipe[name] = {
            "config": {key: value for key, value in _changed_settings(config).items() if key not in NOT_IN_RECIPE},
            "items": items_hash(run.items),
            "templates": {template.name: template.text for template in templates},
            "examples": items_hash(data.examples) if name == PROMPTS_RUN else None,
        }
    recipe["measure"] = {
        "buckets": _json_hash([[*key, *drawn] for key, drawn in sorted(data.lengths.items())]),
        "tested": _json_hash(sorted(data.tested)),
        "prompted": _json_hash(sorted(data.prompted)),
        "information": information_settings(unit, settings),
    }
    plain: dict[str, Any] = json.loads(json.dumps(recipe))  # tuples become lists, as in a stored recipe
    return plain


def finetune_config(unit: Unit, settings: StudySettings) -> FinetuneConfig:
    """Return the FinetuneConfig of a unit's adapter; raise ValueError for an unknown or wrong setting."""
    options = {**settings.training, **settings.tasks[unit.task].training}
    _require_settings(options, FinetuneConfig, "training")
    return FinetuneConfig(**options, rank=unit.rank, seed=unit.seed)


def capture_config(
    unit: Unit,
    settings: StudySettings,
    data: TaskData,
    *,
    run: str,
    adapter: str = "adapter",
    files: tuple[str, ...] = ("data",),
    examples: tuple[str, ...] = (),
    out: str = "run.zarr",
) -> CaptureConfig:
    """Return the CaptureConfig of a unit's run with these paths; raise ValueError for a wrong setting."""
    _require_settings(settings.capture, CaptureConfig, "capture")
    needs_states = run == TEST_RUN and information_settings(unit, settings) is not None
    return CaptureConfig(
        **settings.capture,
        adapter=(adapter,),
        data=files,
        out=out,
        states="sample" if settings.states == "none" and needs_states else settings.states,
        model=model_source(unit.model, settings),
        examples=examples if run == PROMPTS_RUN else (),
        prompt=prompt_sources(data.runs[run].prompts, settings),
        share=unit.share,
        shared_layers=settings.shared_layers,
        share_from=settings.share_from,
        dtype=settings.dtype,
        seed=settings.seed,
    )


def information_settings(unit: Unit, settings: StudySettings) -> dict[str, Any] | None:
    """Return a unit's settings for estimating mutual information; None if none is to be estimated."""
    information = settings.information
    if information is None or any(getattr(unit, name) not in values for name, values in information.where.items()):
        return None
    return information.model_dump(exclude={"where"}, mode="json")


def model_source(model: str, settings: StudySettings) -> str:
    """Return what `load_model` takes for a model of the study: a local path if it exists, else a hub id."""
    if model == "demo":
        return str(demo_model())
    path = settings.folder / model
    return str(path) if path.exists() else model


def prompt_sources(prompts: Sequence[str], settings: StudySettings) -> tuple[str, ...]:
    """Return what `read_template` takes for each prompt: a path next to the study's file, or the prompt's name."""
    paths = {name: settings.folder / name for name in prompts}
    return tuple(str(path) if path.is_file() else name for name, path in paths.items())


def require_inputs(settings: StudySettings, units: Sequence[Unit], *, weights: bool = True) -> None:
    """Raise FileNotFoundError or ValueError unless the models, data and prompts that `units` need exist.

    Without `weights`, a model needs no weights. Places on a hub are checked as far as that is possible offline.
    """
    for model in dict.fromkeys(unit.model for unit in units):
        locate_model(model_source(model, settings), weights=weights)
    for name in dict.fromkeys(unit.task for unit in units):
        task = settings.tasks[name]
        for source in (*task.train, *task.test):
            require_data(data_source(source, settings))
        for prompt in prompt_sources(task.prompts, settings):
            read_template(prompt)


@cache
def _model_hashes(source: str) -> dict[str, str]:
    """Return the SHA-256 of each file of a local model as a dict; of a model on a hub, its name under `hub`."""
    path = Path(source).expanduser()
    if path.is_file():
        return {path.suffix.removeprefix("."): _file_hash(path)}
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in {".json", ".safetensors", ".model", ".txt"})
        return {file.name: _file_hash(file) for file in files}
    return {"hub": source}


def _file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json_hash(value: Any) -> str:
    """Return the SHA-256 of a value as JSON, hexadecimal."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


def _changed_settings(config: Any) -> dict[str, Any]:
    """Return a config's settings that differ from their defaults, so that new settings keep old recipes valid."""
    fields = {field.name: field.default for field in dataclasses.fields(config)}
    return {name: value for name, default in fields.items() if (value := getattr(config, name)) != default}


def _require_settings(options: Mapping[str, Any], kind: type[Any], section: str) -> None:
    """Raise ValueError unless each option is a setting of the config class `kind` and has the setting's type."""
    known = get_type_hints(kind)
    for name, value in options.items():
        if name not in known:
            raise ValueError(f"`{section}` has {name!r}, which is no setting of {kind.__name__}; see docs/studies.md")
        try:
            TypeAdapter(known[name]).validate_python(value, strict=True)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ValueError(f"`{section}.{name}` is {value!r}: {reason[0].lower()}{reason[1:]}") from None
