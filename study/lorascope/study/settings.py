"""Settings in a study's file, checked."""

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

DECIDED = "which the study itself decides; leave it out"
NOT_IN_CAPTURE = {
    **dict.fromkeys(("adapter", "data", "device", "dtype", "examples", "model", "out", "prompt", "seed"), DECIDED),
    **dict.fromkeys(("states", "stream", "score", "score_base", "share", "shared_layers", "share_from"), DECIDED),
    "limit": "which would leave test items out unsaid; give `test_items`, or a shorter text",
    "budget": "which would measure adapters of another rank on other tokens; give `tokens`",
    "generate": "which would measure every adapter on words of its own; `answer_tokens` lets it answer",
    "device_map": "but a study loads its models onto one `device`",
    "trust_remote_code": "but a study runs no code that comes with a model",
}
"""Settings of capture that a study's file can't give, and why."""
NOT_IN_TRAINING = ("rank", "seed")
"""Settings of fine-tuning that the grid decides."""


def _listed(value: Any) -> Any:
    """One value is as good as a list of one; YAML's `yes` is no number."""
    values = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(item, bool) for item in values):
        raise ValueError("true and false (in YAML also yes, no, on, off) are no values here; put words in quotes")
    return values


T = TypeVar("T")
Several = Annotated[tuple[T, ...], BeforeValidator(_listed)]
"""A list, for which one value may stand too."""
Some = Annotated[tuple[T, ...], BeforeValidator(_listed), Field(min_length=1)]
"""A list that isn't empty."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GridPart(_Settings):
    """Settings of which every combination is a part of the grid."""

    model: Several[str] = ()
    """Models; by default the study's."""
    share: Some[int] = (1,)
    """Layers that share one set of base weights."""
    rank: Some[int]
    """Ranks of the adapters."""
    seed: Some[int] = (0,)
    """Seeds of adapters' first weights and the order of samples."""
    train_items: Several[int] = ()
    """Training items a data set; by default each task's."""
    tasks: Several[str] = ()
    """Names of tasks; by default all."""


class Articles(_Settings):
    """A part of a text that has articles under headings of the first level, as WikiText does."""

    data: str
    """File or name of the data set."""
    articles: tuple[int, int]
    """First and last article, from 1."""


class Lengths(_Settings):
    """Buckets of items by length, answered with the first prompt."""

    buckets: tuple[tuple[int, int], ...] = ((1, 100), (101, 200), (201, 300))
    """Shortest and longest item of each."""
    unit: Literal["tokens", "words", "characters"] = "tokens"
    """Unit of a length, which is that of question and choices."""
    items: int = Field(100, ge=1)
    """Items of a bucket and data set."""


class Task(_Settings):
    """Data on which one adapter of each setting is trained and tested."""

    train: Some[str | Articles]
    """Data sets, pooled."""
    test: Some[str | Articles]
    """Data sets, told apart in results."""
    train_items: int | None = Field(None, ge=1)
    """Items of each set to train on, drawn by the study's seed; by default all. Texts are taken whole."""
    test_items: int | None = Field(None, ge=1)
    """Items of each set to test on, drawn by the study's seed; by default all."""
    prompts: Some[str] = ("main",)
    """Prompts of the test items; the first is that of the lengths."""
    prompt_items: int | None = Field(None, ge=1)
    """Number of test items that get the prompts after the first; by default all."""
    lengths: Lengths | None = None
    """Buckets of items by length, from all of the test sets."""
    training: dict[str, Any] = {}
    """Settings of `FinetuneConfig` that are others than the study's."""

    @model_validator(mode="after")
    def _prompts_once(self) -> "Task":
        if twice := [prompt for prompt in self.prompts if self.prompts.count(prompt) > 1]:
            raise ValueError(f"`prompts` names {twice[0]!r} twice; give each once")
        return self


class Information(_Settings):
    """Mutual information of base and LoRA states, which needs states."""

    components: Several[str] = ("*",)
    """Paths of components, or patterns."""
    tokens: int = Field(2000, ge=8)
    """Tokens that estimates are made of."""
    shuffles: int = Field(19, ge=2)
    """Shuffles of each estimate."""
    where: dict[Literal["share", "rank", "seed", "task"], Several[int | str]] = {}
    """Only units with one of these values; by default all."""


class StudySettings(_Settings):
    """A study's file."""

    model: Some[str]
    """Base models: hub ids, folders, `.gguf` files, or `demo`, the model that `lorascope demo` runs."""
    grid: Some[GridPart]
    """Parts, each a product of lists; what stands in two parts is run once."""
    tasks: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], Task] = Field(min_length=1)
    """By name, what each setting's adapters are trained and tested on."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Type the models run in."""
    device: str = "auto"
    """Device of the models: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1` ..."""
    seed: int = Field(0, ge=0)
    """Seed of the draws of items and of prompts' examples."""
    shared_layers: int = Field(16, ge=2)
    """Number of last layers that share weights."""
    share_from: Literal["first", "mean"] = "first"
    """Source of the weights of a group of layers: its first layer, or the mean of all."""
    training: dict[str, Any] = {}
    """Settings of `FinetuneConfig`, but for rank and seed."""
    capture: dict[str, Any] = {}
    """Settings of `CaptureConfig`, but for what the study decides."""
    information: Information | None = None
    """Estimates of mutual information; by default none."""
    states: Literal["all", "sample", "none"] = "none"
    """Captured states that stay once a unit's results are verified: all, those of a few samples, or no store."""
    folder: Path = Path()
    """Folder of the study's file; models and folders are taken from here."""
    data: Path = Path()
    """Folder of data files; those that aren't there are looked for beside the study's file, and then by name."""
    out: Path = Path("study")
    """Folder of results; by default of the file's name, without its ending."""
    work: Path = Path("study/work")
    """Folder of adapters and runs; by default `work` in the folder of results."""

    @property
    def results(self) -> Path:
        """Folder of the units' results."""
        return self.out / "results"

    @model_validator(mode="after")
    def _consistent(self) -> "StudySettings":
        if refused := sorted(NOT_IN_CAPTURE.keys() & self.capture.keys()):
            raise ValueError(f"`capture` has {refused[0]!r}, {NOT_IN_CAPTURE[refused[0]]}")
        for training in (self.training, *(task.training for task in self.tasks.values())):
            if refused := [name for name in NOT_IN_TRAINING if name in training]:
                raise ValueError(f"`training` has {refused[0]!r}, which belongs into `grid`")
        for part in self.grid:
            if unknown := [task for task in part.tasks if task not in self.tasks]:
                raise ValueError(f"`grid` names the task {unknown[0]!r}; there are {', '.join(self.tasks)}")
            if wrong := [share for share in part.share if share < 1 or self.shared_layers % share]:
                raise ValueError(f"`grid` has share {wrong[0]}; give divisors of `shared_layers` {self.shared_layers}")
        for name, values in self.information.where.items() if self.information else ():
            known = (
                set(self.tasks) if name == "task" else {level for part in self.grid for level in getattr(part, name)}
            )
            if lacking := [value for value in values if value not in known]:  # nothing would be estimated of it
                among = ", ".join(map(str, sorted(known)))
                raise ValueError(f"`information.where` has {name} {lacking[0]!r}, which no unit has; there are {among}")
        return self


def read_settings(path: str | Path) -> StudySettings:
    """The settings that a study's file holds; its folders are taken from where the file lies.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it isn't YAML, or what it says isn't allowed: names the first place that is wrong, the value, and what may
        stand there.
    """
    path = Path(path)
    content = _read_yaml(path)
    if "folder" in content:
        raise ValueError(f"`{path}`: `folder` is no setting; models and folders are taken from where the file lies")
    try:
        settings = StudySettings.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"`{path}`: {first_mistake(error)}") from None
    fields, folder = settings.model_fields_set, path.parent
    out = folder / (settings.out if "out" in fields else path.stem)
    work = folder / settings.work if "work" in fields else out / "work"
    return settings.model_copy(update={"folder": folder, "data": folder / settings.data, "out": out, "work": work})


class _Loader(yaml.SafeLoader):
    """PyYAML's own loader takes the last of two equal keys, and 5e-4 for a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys differ."""
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {key.value!r} stands there twice; give it once")
            keys |= {key.value} if isinstance(key, yaml.ScalarNode) and key.value != "<<" else set()
        return super().construct_mapping(node, deep=deep)


# As in YAML 1.2: https://yaml.org/spec/1.2.2/#1032-tag-resolution
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+\Z"), list("-+.0123456789")
)


def _read_yaml(path: Path) -> Mapping[str, Any]:
    """The mapping that a YAML file holds, or an error that says what is wrong with it."""
    if path.is_dir():
        raise ValueError(f"`{path}` is a folder; name the study's YAML file")
    if not path.exists():
        raise FileNotFoundError(f"there is no study's file `{path}`; name a YAML file")
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)  # noqa: S506 (a safe loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none is a ValueError
        raise ValueError(f"`{path}` isn't YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"`{path}` holds no settings; see docs/studies.md for an example")
    return content


def first_mistake(error: ValidationError) -> str:
    """Place, value and reason of the first thing that is wrong, and how many more there are."""
    first, *others = error.errors(include_url=False)
    place = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function-"))
    value = "" if isinstance(first["input"], Mapping) else f" is {first['input']!r}"
    reason = first["msg"].removeprefix("Value error, ")
    more = f" (and {len(others)} more)" if others else ""
    if first["type"] == "value_error" and not first["loc"]:
        return reason + more
    if first["type"] == "extra_forbidden":
        return f"`{place}` is no setting of a study; see docs/studies.md for those that are{more}"
    return f"`{place}`{value}: {reason[0].lower()}{reason[1:]}{more}"
