"""The settings in a study's YAML file, and their checks."""

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

DECIDED = "which the study itself decides; leave it out"
REFUSED_IN_CAPTURE = {
    **dict.fromkeys(("adapter", "data", "device", "dtype", "examples", "model", "out", "prompt", "seed"), DECIDED),
    **dict.fromkeys(("states", "stream", "score", "score_base", "share", "shared_layers", "share_from"), DECIDED),
    "limit": "which would leave test items out unsaid; give `test_items`, or a shorter text",
    "budget": "which would measure adapters of another rank on other tokens; give `tokens`",
    "generate": "which would measure every adapter on words of its own; `answer_tokens` lets it answer",
    **dict.fromkeys(("device_map", "tensor_parallel", "fully_shard"), "but a study loads its models onto one `device`"),
    "trust_remote_code": "but a study runs no code that comes with a model",
}
"""Setting of capture that a study's file can't have -> reason."""
REFUSED_IN_TRAINING = ("rank", "seed")
"""Settings of fine-tuning that the grid decides."""


def _as_list(value: Any) -> Any:
    """Return a list as it is and a single value as a list of one; raise ValueError for true and false.

    YAML makes true and false of `yes` and `no`.
    """
    values = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(item, bool) for item in values):
        raise ValueError("true and false (in YAML also yes, no, on, off) are no values here; put words in quotes")
    return values


T = TypeVar("T")
Several = Annotated[tuple[T, ...], BeforeValidator(_as_list)]
"""A list; a single value counts as a list of one."""
Some = Annotated[tuple[T, ...], BeforeValidator(_as_list), Field(min_length=1)]
"""A list that isn't empty."""


class _Settings(BaseModel):
    """Base class of a study's settings: they are frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class GridPart(_Settings):
    """Part of a study's grid: lists of values; for every combination and task, an adapter is trained."""

    model: Several[str] = ()
    """Models; by default the study's."""
    share: Some[int] = (1,)
    """Layers that share one set of base weights."""
    rank: Some[int]
    """Ranks of the adapters."""
    seed: Some[int] = (0,)
    """Seeds of adapters' first weights and the order of samples."""
    train_items: Several[int] = ()
    """Training items per data set; by default each task's."""
    tasks: Several[str] = ()
    """Names of tasks; by default all."""


class Articles(_Settings):
    """Part of a text data set: some of its articles, which headings of the first level separate, as in WikiText."""

    data: str
    """File or name of the data set."""
    articles: tuple[int, int]
    """First and last article, from 1."""


class Lengths(_Settings):
    """Settings of test items drawn by length into buckets, as for the paper's figure 3; all get the first prompt."""

    buckets: tuple[tuple[int, int], ...] = ((1, 100), (101, 200), (201, 300))
    """Shortest and longest length of each bucket."""
    unit: Literal["tokens", "words", "characters"] = "tokens"
    """Unit of an item's length, which counts question and choices."""
    items: int = Field(100, ge=1)
    """Items per bucket and data set."""


class Task(_Settings):
    """Data to train and test on; for each task, every setting of the grid trains one adapter."""

    train: Some[str | Articles]
    """Data sets to train on, pooled."""
    test: Some[str | Articles]
    """Data sets to test on, each with its own results."""
    train_items: int | None = Field(None, ge=1)
    """Items of each set to train on, drawn by the study's seed; by default all. Texts are taken whole."""
    test_items: int | None = Field(None, ge=1)
    """Items of each set to test on, drawn by the study's seed; by default all."""
    prompts: Some[str] = ("main",)
    """Prompts of the test items; buckets of lengths use the first one."""
    prompt_items: int | None = Field(None, ge=1)
    """Number of test items that get the prompts after the first; by default all."""
    lengths: Lengths | None = None
    """Buckets of items by length, from all of the test sets."""
    training: dict[str, Any] = {}
    """Settings of `FinetuneConfig` that differ from the study's."""

    @model_validator(mode="after")
    def _refuse_repeated_prompts(self) -> "Task":
        """Return the task, or raise ValueError if `prompts` names a prompt twice."""
        if twice := [prompt for prompt in self.prompts if self.prompts.count(prompt) > 1]:
            raise ValueError(f"`prompts` names {twice[0]!r} twice; give each once")
        return self


class Information(_Settings):
    """Settings for estimating mutual information of base and LoRA states; some captured states are then stored."""

    components: Several[str] = ("*",)
    """Paths of components, or patterns."""
    tokens: int = Field(2000, ge=8)
    """Number of tokens per estimate."""
    shuffles: int = Field(19, ge=2)
    """Number of shuffles per estimate."""
    where: dict[Literal["share", "rank", "seed", "task"], Several[int | str]] = {}
    """Setting -> values: only units with one of these values; by default all."""


class StudySettings(_Settings):
    """All settings of a study, as `read_settings` returns them from its YAML file."""

    model: Some[str]
    """Base models: hub ids, folders, `.gguf` files, or `demo`, the model that `lorascope demo` runs."""
    grid: Some[GridPart]
    """Parts, each a product of lists; a setting in two parts is run once."""
    tasks: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], Task] = Field(min_length=1)
    """Name -> data that each setting's adapters are trained and tested on."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Floating-point type of the models."""
    device: str = "auto"
    """Device of the models: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1` ..."""
    seed: int = Field(0, ge=0)
    """Seed of the draws of items and of prompts' examples."""
    shared_layers: int = Field(16, ge=2)
    """Number of last layers that share weights."""
    share_from: Literal["first", "mean"] = "first"
    """Weights of a group of layers: those of its first layer, or the mean of all."""
    training: dict[str, Any] = {}
    """Settings of `FinetuneConfig`, except rank and seed."""
    capture: dict[str, Any] = {}
    """Settings of `CaptureConfig`, except those in `REFUSED_IN_CAPTURE`."""
    information: Information | None = None
    """Estimates of mutual information; by default none."""
    states: Literal["all", "sample", "none"] = "none"
    """Captured states that are kept once a unit's results are verified: all, those of a few samples, or none."""
    folder: Path = Path()
    """Folder of the study's file; paths of models and folders are relative to it."""
    data: Path = Path()
    """Folder of data files; missing ones are looked up next to the study's file, and then by name."""
    out: Path = Path("study")
    """Folder of results; by default named as the file, without its ending."""
    work: Path = Path("study/work")
    """Folder of adapters and runs; by default `work` in the folder of results."""

    @property
    def results(self) -> Path:
        """Folder with one file of results per unit (adapter of the study)."""
        return self.out / "results"

    @model_validator(mode="after")
    def _consistent(self) -> "StudySettings":
        """Return the settings; raise ValueError if two contradict each other, or one is for the study to decide."""
        if refused := sorted(REFUSED_IN_CAPTURE.keys() & self.capture.keys()):
            raise ValueError(f"`capture` has {refused[0]!r}, {REFUSED_IN_CAPTURE[refused[0]]}")
        for training in (self.training, *(task.training for task in self.tasks.values())):
            if refused := [name for name in REFUSED_IN_TRAINING if name in training]:
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
            if absent := [value for value in values if value not in known]:
                among = ", ".join(map(str, sorted(known)))
                raise ValueError(f"`information.where` has {name} {absent[0]!r}, which no unit has; there are {among}")
        return self


def read_settings(path: str | Path) -> StudySettings:
    """Read a study's YAML file into `StudySettings`; relative folders are resolved from the file's folder.

    Raises FileNotFoundError, or ValueError if it isn't YAML or a setting isn't allowed: the message names the place,
    its value and the allowed ones.
    """
    path = Path(path)
    content = _read_yaml(path)
    if "folder" in content:
        raise ValueError(f"`{path}`: `folder` is no setting; models and folders are taken from where the file lies")
    try:
        settings = StudySettings.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"`{path}`: {describe_mistake(error)}") from None
    fields, folder = settings.model_fields_set, path.parent
    out = folder / (settings.out if "out" in fields else path.stem)
    work = folder / settings.work if "work" in fields else out / "work"
    return settings.model_copy(update={"folder": folder, "data": folder / settings.data, "out": out, "work": work})


class _Loader(yaml.SafeLoader):
    """YAML loader that refuses repeated keys and reads 5e-4 as a number; PyYAML's own does neither."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return a YAML mapping as a dict; raise YAMLError if it has a key twice."""
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
    """Return the mapping in a YAML file; raise FileNotFoundError or ValueError that says what is wrong with it."""
    if path.is_dir():
        raise ValueError(f"`{path}` is a folder; name the study's YAML file")
    if not path.exists():
        raise FileNotFoundError(f"there is no study's file `{path}`; name a YAML file")
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)  # noqa: S506 (a safe loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # an impossible date is a ValueError
        raise ValueError(f"`{path}` isn't YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"`{path}` holds no settings; see docs/studies.md for an example")
    return content


def describe_mistake(error: ValidationError) -> str:
    """Return a pydantic error as one line: place, value and reason of the first mistake, and how many more."""
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
