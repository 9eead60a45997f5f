"""How an adapter was set up: PEFT's `adapter_config.json`, read without PEFT."""

import json
import math
import re
import reprlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["LoraSettings", "is_residual", "rank_at", "read_settings", "scaling_at"]

T = TypeVar("T", int, float)

CONFIG = "adapter_config.json"
PATTERN = r"(.*\.)?({})$"
"""A key of a pattern fits whole names at the end of a path."""
RESIDUAL = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Inits that subtract the adapter's starting point from the base weights (PEFT's `lora/layer.py`, `*_init`)."""
NOT_BA = ("kasa_config", "monteclora_config", "use_bdlora", "use_qalora", "target_parameters")
"""Settings with which the change of a layer's weight is another product than s B A, or several in one."""
MAX_REPEATS, MAX_CHOICES = 3, 8
"""Signs of a layer pattern, `*`, `+` and `{`, and these with `?` and `(`: with more, matching a path may never end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """Settings of a LoRA configuration that enter s B A."""

    rank: int
    """Rank where no pattern says otherwise."""
    alpha: float
    """Alpha where no pattern says otherwise."""
    rank_pattern: Mapping[str, int]
    """Regular expression for the end of a module's path -> rank."""
    alpha_pattern: Mapping[str, float]
    use_rslora: bool
    """Whether alpha is divided by the root of the rank."""
    document: Mapping[str, Any]
    """The whole file, as JSON has it."""


def read_settings(folder: Path) -> LoraSettings:
    """The LoRA configuration in an adapter's folder.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no configuration in it.
    ValueError
        If the file is no LoRA configuration, or one whose change of weight isn't s B A.
    """
    document = _read_document(folder)
    if document["peft_type"] != "LORA":
        raise ValueError(
            f"`peft_type` of adapter {str(folder)!r} is {reprlib.repr(document['peft_type'])}; only 'LORA' can be "
            "measured"
        )
    if "r" not in document or "lora_alpha" not in document:
        raise ValueError(f"{str(folder / CONFIG)!r} lacks `r` or `lora_alpha`; save the adapter again with PEFT")
    for name in NOT_BA:
        if document.get(name):
            raise ValueError(
                f"`{name}` of adapter {str(folder)!r} is {reprlib.repr(document[name])}: what it adds isn't one "
                "product s B A a layer, which is all that is measured here; capture a run with it instead"
            )
    settings = LoraSettings(
        rank=document["r"],
        alpha=document["lora_alpha"],
        rank_pattern=document.get("rank_pattern") or {},
        alpha_pattern=document.get("alpha_pattern") or {},
        use_rslora=bool(document.get("use_rslora")),
        document=document,
    )
    for problem in _problems(settings, str(folder)):
        raise ValueError(problem)
    return settings


def rank_at(settings: LoraSettings, path: str) -> int:
    """Rank that a module of this path was given."""
    return _matched(settings.rank_pattern, path, settings.rank)


def scaling_at(settings: LoraSettings, path: str) -> float:
    """What B A is multiplied by at a module of this path: alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
    rank, alpha = rank_at(settings, path), _matched(settings.alpha_pattern, path, settings.alpha)
    return alpha / math.sqrt(rank) if settings.use_rslora else alpha / rank


def is_residual(settings: LoraSettings) -> bool:
    """Whether the adapter's init left another base than the checkpoint's."""
    init = settings.document.get("init_lora_weights")
    return isinstance(init, str) and init.lower().startswith(RESIDUAL)


def _matched(pattern: Mapping[str, T], path: str, default: T) -> T:
    """The value of the first expression that fits the end of a path (PEFT 0.21, `get_pattern_key`)."""
    return next((value for key, value in pattern.items() if re.match(PATTERN.format(key), path)), default)


def _read_document(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not folder.is_dir():
        what = "a file" if folder.exists() else "not there"
        raise FileNotFoundError(f"adapter {str(folder)!r} is {what}; give a local folder that PEFT saved")
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} is no adapter folder: there is no {CONFIG!r} in it; "
            "give a local folder that PEFT's `save_pretrained` wrote"
        )
    try:
        document = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError(f"{str(path)!r} is nested too deep for a configuration; save the adapter again") from error
    except ValueError as error:  # also bytes that aren't text
        raise ValueError(f"{str(path)!r} isn't JSON: {error}; copy or save the adapter again") from error
    if not isinstance(document, dict) or "peft_type" not in document:
        raise ValueError(f"{str(path)!r} is no PEFT configuration: it holds no object with `peft_type`")
    return document


def _problems(settings: LoraSettings, folder: str) -> Iterator[str]:
    """What is wrong with patterns, ranks and alphas, the first one first."""
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = getattr(settings, name)
        if not isinstance(pattern, dict):
            yield f"`{name}` of adapter {folder!r} is {reprlib.repr(pattern)}; it maps layers to numbers"
            return
        for key in pattern:
            where = f"`{name}` of adapter {folder!r} has the key {reprlib.repr(key)}"
            if not _is_bounded(key):
                yield (
                    f"{where}, which may take for ever to match; allowed are {MAX_REPEATS} of `*`, `+` and `{{`, none "
                    f"of them after a bracket, and {MAX_CHOICES} of these, `?` and `(` together: name the layers more "
                    "simply"
                )
            else:
                try:
                    re.compile(PATTERN.format(key))
                except re.error as error:
                    yield f"{where}, no regular expression ({error}); correct it"
    for rank in (settings.rank, *settings.rank_pattern.values()):
        if type(rank) is not int or not 1 <= rank < 2**31:
            found = reprlib.repr(rank)
            yield f"`r` of adapter {folder!r} is {found}; a rank is a whole number of 1 or more, below 2^31"
    for alpha in (settings.alpha, *settings.alpha_pattern.values()):
        if type(alpha) not in (int, float) or not abs(alpha) <= sys.float_info.max:
            found = reprlib.repr(alpha)
            yield f"`lora_alpha` of adapter {folder!r} is {found}; it must be a finite number, within float64's range"


def _is_bounded(key: str) -> bool:
    """Whether a pattern repeats and branches little enough to be matched soon, whatever the path."""
    plain = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "x", key, flags=re.DOTALL)  # without what is escaped, or one of a set
    repeats, choices = re.findall(r"[*+{]", plain), re.findall(r"[*+{?(]", plain)
    return len(repeats) <= MAX_REPEATS and len(choices) <= MAX_CHOICES and not re.search(r"\)[*+{]", plain)
