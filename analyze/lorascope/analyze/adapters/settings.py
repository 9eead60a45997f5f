"""Settings of an adapter, as far as it decides the change of a layer's weight."""

import math
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorascope.stores.adapter_settings import PATTERN, read_adapter_settings

NOT_BA = ("kasa_config", "monteclora_config", "use_bdlora", "use_qalora", "target_parameters")
"""Settings with which the change of a layer's weight is another product than s B A, or several in one."""


def read_settings(folder: Path) -> dict[str, Any]:
    """The LoRA configuration in an adapter's folder, as JSON has it, whose ranks and alphas are sound.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no configuration in it.
    ValueError
        If the file is no LoRA configuration, or one whose change of weight isn't s B A.
    """
    settings = read_adapter_settings(folder)
    for name in NOT_BA:
        if settings.get(name):
            raise ValueError(
                f"`{name}` of adapter {str(folder)!r} is {reprlib.repr(settings[name])}: what it adds isn't one "
                "product s B A a layer, which is all that is measured here; capture a run with it instead"
            )
    return settings


def rank_at(settings: Mapping[str, Any], path: str) -> int:
    """Rank that a module of this path was given."""
    return int(_matched(settings, "rank_pattern", path, settings["r"]))


def scaling_at(settings: Mapping[str, Any], path: str) -> float:
    """Factor of B A at a module of this path: alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
    rank, alpha = rank_at(settings, path), _matched(settings, "alpha_pattern", path, settings["lora_alpha"])
    return float(alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank)


def _matched(settings: Mapping[str, Any], name: str, path: str, default: float) -> float:
    """The value of the first expression of a pattern that fits the end of a path (PEFT 0.21, `get_pattern_key`)."""
    pattern: Mapping[str, float] = settings.get(name) or {}
    return next((value for key, value in pattern.items() if re.match(PATTERN.format(key), path)), default)
