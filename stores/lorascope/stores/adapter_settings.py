"""Settings of a LoRA adapter, read from PEFT's `adapter_config.json` without PEFT."""

import re
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .expressions import Pattern
from .json_document import read_json

CONFIG = "adapter_config.json"
KEY_PATTERN = r"(.*\.)?({})$"
"""A pattern's key must match whole names at the end of a module's path (PEFT 0.21, `get_pattern_key`)."""
RESIDUAL_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that subtract the adapter's starting point from the base weights (PEFT, `lora/layer.py`)."""
_NAME = re.compile(r"[\w.]{1,255}")
"""A plain name, whose dots match any character: it needs no test, and a configuration may have one per layer."""
MAX_RANK = 2**16
"""Largest rank that is accepted; no layer in use has more features."""
MAX_ALPHA = float.fromhex("0x1.fffffep+127")
"""Largest number in float32, and the largest alpha that is accepted."""
MAX_EXPRESSIONS, MAX_NAMES = 1024, 16_384
"""Limits of one setting's entries: expressions (PEFT tries each one on every layer), and plain names."""


def read_adapter_settings(folder: Path) -> dict[str, Any]:
    """Return an adapter's LoRA settings from its `adapter_config.json`, with ranks, alphas and list lengths checked.

    Its regular expressions aren't checked: give `setting_patterns` of it to `check_patterns`.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no configuration in it.
    ValueError
        If the file isn't a LoRA configuration, or a value is out of range.
    """
    path, where = folder / CONFIG, f"of adapter {str(folder)!r}"
    if not folder.is_dir():
        what = "a file" if folder.exists() else "not there"
        raise FileNotFoundError(f"adapter {str(folder)!r} is {what}; give a local folder that PEFT saved")
    if not path.exists():
        raise FileNotFoundError(
            f"{str(folder)!r} is no adapter folder: there is no {CONFIG!r} in it; "
            "give a local folder that PEFT's `save_pretrained` wrote"
        )
    settings = read_json(path)
    if not isinstance(settings, dict) or "peft_type" not in settings:
        raise ValueError(f"{str(path)!r} is no PEFT configuration: it holds no object with `peft_type`")
    if settings["peft_type"] != "LORA":
        peft_type = reprlib.repr(settings["peft_type"])
        raise ValueError(f"`peft_type` {where} is {peft_type}; only 'LORA' can be measured")
    if "r" not in settings or "lora_alpha" not in settings:
        raise ValueError(f"{str(path)!r} lacks `r` or `lora_alpha`; save the adapter again with PEFT")
    for name, kind, meaning in (
        ("rank_pattern", dict, "maps layers to numbers"),
        ("alpha_pattern", dict, "maps layers to numbers"),
        ("target_parameters", list, "lists names of parameters"),
    ):
        if not isinstance(settings.get(name) or kind(), kind):
            raise ValueError(f"`{name}` {where} is {reprlib.repr(settings[name])}; it {meaning}")
    for rank in (settings["r"], *(settings.get("rank_pattern") or {}).values()):
        if type(rank) is not int or not 1 <= rank <= MAX_RANK:
            raise ValueError(
                f"`r` {where} is {reprlib.repr(rank)}; a rank is a whole number of 1 or more, at most {MAX_RANK}"
            )
    for alpha in (settings["lora_alpha"], *(settings.get("alpha_pattern") or {}).values()):
        if type(alpha) not in (int, float) or not abs(alpha) <= MAX_ALPHA:
            raise ValueError(
                f"`lora_alpha` {where} is {reprlib.repr(alpha)}; it must be a finite number, within float32's range"
            )
    for name, value in settings.items():
        most = (
            MAX_EXPRESSIONS
            if name in ("rank_pattern", "alpha_pattern", "layers_pattern", "modules_to_save")
            else MAX_NAMES
        )
        if isinstance(value, list | dict) and len(value) > most:
            raise ValueError(f"`{name}` {where} has {len(value)} entries; allowed are {most}: save it more simply")
    return settings


def setting_patterns(settings: Mapping[str, Any], where: str) -> Iterator[Pattern]:
    """Yield the regular expressions in an adapter's settings, in the form in which PEFT 0.21 matches them.

    `where` names the adapter in errors.
    """
    for name in ("target_modules", "exclude_modules"):
        if isinstance(text := settings.get(name), str):
            yield Pattern(f"`{name}` {where} is {reprlib.repr(text)}", text, whole=True)
    named = {
        "layers_pattern": r"(?:^|.*?\.){}\.(?P<idx>\d+)\.",
        "modules_to_save": r"(^|.*\.){}($|\..*)",
        "rank_pattern": KEY_PATTERN,
        "alpha_pattern": KEY_PATTERN,
    }
    for name, form in named.items():
        value = settings.get(name) or ()
        for key in [value] if isinstance(value, str) else value if isinstance(value, list | dict) else ():
            if isinstance(key, str) and not _NAME.fullmatch(key):
                yield Pattern(f"`{name}` {where} has {reprlib.repr(key)}", form.replace("{}", key))


def has_residual_init(settings: Mapping[str, Any]) -> bool:
    """Return whether the adapter's initialisation changed the base weights, as that of PiSSA does.

    PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA and KaSA change them; EVA, MiCA and orthogonal initialisation don't.
    """
    init = settings.get("init_lora_weights")
    return bool(settings.get("kasa_config")) or (isinstance(init, str) and init.lower().startswith(RESIDUAL_INITS))


def belongs_to_adapter(key: str, trained: tuple[str, ...]) -> bool:
    """Return whether a key of an adapter's file names one of its weights, not a saved copy of the base's embeddings.

    `trained` are the names of modules that the adapter replaces as a whole (`modules_to_save`).
    """
    names = key.split(".")
    if any(name.startswith("lora_") for name in names):  # also below `base_layer`, in a layer that PEFT wrapped twice
        return True
    is_trained = any(name == "token_adapter" or name.endswith(trained) for name in names)
    return is_trained and "base_layer" not in names
