"""Everything that a unit's results depend on, as JSON: the same recipe means the same results, whatever the machine."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from lorascope.capture.config import CaptureConfig, FinetuneConfig
from lorascope.capture.samples.prompt import read_template

from ..demo_inputs import demo_model
from ..grid import Unit
from ..settings import StudySettings
from .data import PROMPTS_RUN, TEST_RUN, TaskData, items_hash

VERSION = 1
"""Version of recipes; raised when the same settings come to mean other numbers."""
PLACES = {"model", "adapter", "data", "examples", "out"}
"""Settings of a capture that say where things lie; what lies there is in the recipe by its content."""
NO_NUMBER = frozenset(
    {"score_base", "queue", "overfill", "trust_remote_code", "device", "device_map", "codec", "measure_overhead"}
)
"""Settings of a capture that shape no number."""


def recipe_of(unit: Unit, settings: StudySettings, data: TaskData) -> dict[str, Any]:
    """Everything that shapes a unit's results, in the order of its steps: `train`, each run by its name, `measure`.

    Raises
    ------
    FileNotFoundError, ValueError
        If the model isn't there, or a setting of training or capture isn't allowed.
    """
    recipe: dict[str, Any] = {
        "train": {
            "version": VERSION,
            "model": _model_content(model_source(unit.model, settings)),
            "dtype": settings.dtype,
            "sharing": [unit.share, settings.shared_layers, settings.share_from] if unit.share > 1 else [1],
            "config": _not_default(finetune_config(unit, settings)),
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
            "config": {key: value for key, value in _not_default(config).items() if key not in PLACES | NO_NUMBER},
            "items": items_hash(run.items),
            "templates": {template.name: template.text for template in templates},
            "examples": items_hash(data.examples) if name == PROMPTS_RUN else None,
        }
    recipe["measure"] = {
        "buckets": _hash([[*key, *drawn] for key, drawn in sorted(data.lengths.items())]),
        "tested": _hash(sorted(data.tested)),
        "prompted": _hash(sorted(data.prompted)),
        "information": information_of(unit, settings),
    }
    plain: dict[str, Any] = json.loads(json.dumps(recipe))  # tuples become lists, as they are when it is read again
    return plain


def finetune_config(unit: Unit, settings: StudySettings) -> FinetuneConfig:
    """Settings of the training of a unit's adapter.

    Raises
    ------
    ValueError
        If a setting isn't known or allowed.
    """
    options = {**settings.training, **settings.tasks[unit.task].training}
    _refuse_wrong(options, FinetuneConfig, "training")
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
    """Settings of the capture of one run of a unit, with these places.

    Raises
    ------
    ValueError
        If a setting isn't known or allowed.
    """
    _refuse_wrong(settings.capture, CaptureConfig, "capture")
    needs_states = run == TEST_RUN and information_of(unit, settings) is not None
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


def information_of(unit: Unit, settings: StudySettings) -> dict[str, Any] | None:
    """Settings of a unit's estimates of mutual information; None where there are none."""
    information = settings.information
    if information is None or any(getattr(unit, name) not in values for name, values in information.where.items()):
        return None
    return information.model_dump(exclude={"where"}, mode="json")


def model_source(model: str, settings: StudySettings) -> str:
    """Argument of `load_model` for a model of the study's file: folders are taken from where that file lies."""
    if model == "demo":
        return str(demo_model())
    path = settings.folder / model
    return str(path) if path.exists() else model


def prompt_sources(prompts: Sequence[str], settings: StudySettings) -> tuple[str, ...]:
    """Prompts as `read_template` takes them: files are looked for in the folder of the study's file."""
    paths = {name: settings.folder / name for name in prompts}
    return tuple(str(path) if path.is_file() else name for name, path in paths.items())


@cache
def _model_content(source: str) -> dict[str, str]:
    """Which model it is: SHA-256 over its files, or the name by which a hub knows it."""
    path = Path(source).expanduser()
    if path.is_file():
        return {path.suffix.removeprefix("."): _file_hash(path)}
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in {".json", ".safetensors", ".model", ".txt"})
        return {file.name: _file_hash(file) for file in files}
    return {"hub": source}


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


def _not_default(config: Any) -> dict[str, Any]:
    """Settings that differ from what they are by default: those of a later version leave a recipe as it is."""
    fields = {field.name: field.default for field in dataclasses.fields(config)}
    return {name: value for name, default in fields.items() if (value := getattr(config, name)) != default}


def _refuse_wrong(options: Mapping[str, Any], kind: type[Any], section: str) -> None:
    """Raise a ValueError unless these are settings of a stage, each of its type: a word isn't taken for a number."""
    known = get_type_hints(kind)
    for name, value in options.items():
        if name not in known:
            raise ValueError(f"`{section}` has {name!r}, which is no setting of {kind.__name__}; see docs/studies.md")
        try:
            TypeAdapter(known[name]).validate_python(value, strict=True)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ValueError(f"`{section}.{name}` is {value!r}: {reason[0].lower()}{reason[1:]}") from None
