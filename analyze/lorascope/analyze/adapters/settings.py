"""How an adapter was set up: PEFT's `adapter_config.json`, read without PEFT."""

import json
import math
import re
import reprlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG = "adapter_config.json"
PATTERN = r"(.*\.)?({})$"
"""A key of a pattern fits whole names at the end of a path."""
RESIDUAL = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Inits that subtract the adapter's starting point from the base weights (PEFT's `lora/layer.py`, `*_init`)."""
NOT_BA = ("kasa_config", "monteclora_config", "use_bdlora", "use_qalora", "target_parameters")
"""Settings with which the change of a layer's weight is another product than s B A, or several in one."""
MAX_REPEATS, MAX_CHOICES = 3, 8
"""Signs of a layer pattern, `*`, `+` and `{`, and these with `?` and `(`: with more, matching a path may never end."""


def read_settings(folder: Path) -> dict[str, Any]:
    """The LoRA configuration in an adapter's folder, as JSON has it, whose ranks, alphas and patterns are sound.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no configuration in it.
    ValueError
        If the file is no LoRA configuration, or one whose change of weight isn't s B A.
    """
    settings, where = _read_document(folder), f"of adapter {str(folder)!r}"
    if settings["peft_type"] != "LORA":
        found = reprlib.repr(settings["peft_type"])
        raise ValueError(f"`peft_type` {where} is {found}; only 'LORA' can be measured")
    if "r" not in settings or "lora_alpha" not in settings:
        raise ValueError(f"{str(folder / CONFIG)!r} lacks `r` or `lora_alpha`; save the adapter again with PEFT")
    for name in NOT_BA:
        if settings.get(name):
            raise ValueError(
                f"`{name}` {where} is {reprlib.repr(settings[name])}: what it adds isn't one product s B A a layer, "
                "which is all that is measured here; capture a run with it instead"
            )
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = settings.get(name) or {}
        if not isinstance(pattern, dict):
            raise ValueError(f"`{name}` {where} is {reprlib.repr(pattern)}; it maps layers to numbers")
        for key in pattern:
            _check_pattern(key, f"`{name}` {where} has the key {reprlib.repr(key)}")
    for rank in (settings["r"], *(settings.get("rank_pattern") or {}).values()):
        if type(rank) is not int or not 1 <= rank < 2**31:
            found = reprlib.repr(rank)
            raise ValueError(f"`r` {where} is {found}; a rank is a whole number of 1 or more, below 2^31")
    for alpha in (settings["lora_alpha"], *(settings.get("alpha_pattern") or {}).values()):
        if type(alpha) not in (int, float) or not abs(alpha) <= sys.float_info.max:
            found = reprlib.repr(alpha)
            raise ValueError(f"`lora_alpha` {where} is {found}; it must be a finite number, within float64's range")
    return settings


def rank_at(settings: Mapping[str, Any], path: str) -> int:
    """Rank that a module of this path was given."""
    return int(_matched(settings, "rank_pattern", path, settings["r"]))


def scaling_at(settings: Mapping[str, Any], path: str) -> float:
    """What B A is multiplied by at a module of this path: alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
    rank, alpha = rank_at(settings, path), _matched(settings, "alpha_pattern", path, settings["lora_alpha"])
    return float(alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank)


def is_residual(settings: Mapping[str, Any]) -> bool:
    """Whether the adapter's init left another base than the checkpoint's."""
    init = settings.get("init_lora_weights")
    return isinstance(init, str) and init.lower().startswith(RESIDUAL)


def _matched(settings: Mapping[str, Any], name: str, path: str, default: float) -> float:
    """The value of the first expression of a pattern that fits the end of a path (PEFT 0.21, `get_pattern_key`)."""
    pattern: Mapping[str, float] = settings.get(name) or {}
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
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{str(path)!r} holds half of a character ({error.reason}); save the adapter again") from error
    except RecursionError as error:
        raise ValueError(f"{str(path)!r} is nested too deep for a configuration; save the adapter again") from error
    except ValueError as error:  # also bytes that aren't text
        raise ValueError(f"{str(path)!r} isn't JSON: {error}; copy or save the adapter again") from error
    if not isinstance(document, dict) or "peft_type" not in document:
        raise ValueError(f"{str(path)!r} is no PEFT configuration: it holds no object with `peft_type`")
    return document


def _check_pattern(key: str, where: str) -> None:
    """Raise a ValueError unless a layer pattern is an expression that is matched soon, whatever the path."""
    plain = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "x", key, flags=re.DOTALL)  # without what is escaped, or one of a set
    repeats, choices = re.findall(r"[*+{]", plain), re.findall(r"[*+{?(]", plain)
    if len(repeats) > MAX_REPEATS or len(choices) > MAX_CHOICES or re.search(r"\)[*+{]", plain):
        raise ValueError(
            f"{where}, which may take for ever to match; allowed are {MAX_REPEATS} of `*`, `+` and `{{`, none of them "
            f"after a bracket, and {MAX_CHOICES} of these, `?` and `(` together: name the layers more simply"
        )
    try:
        re.compile(PATTERN.format(key))
    except re.error as error:
        raise ValueError(f"{where}, no regular expression ({error}); correct it") from error
