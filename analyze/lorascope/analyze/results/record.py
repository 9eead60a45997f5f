"""Results as JSON: full precision, and what they were made of."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

SHAPING = ("lorascope", "numpy", "scipy", "pandas")
"""Packages whose versions may move a number."""


def provenance(frame: pd.DataFrame, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, settings and a hash of the rows that a result was made of."""
    return {
        "data_sha256": data_hash(frame),
        "n_rows": len(frame),
        "settings": plain(settings),
        "versions": {name: version(name) for name in SHAPING},
    }


def data_hash(frame: pd.DataFrame) -> str:
    """SHA-256 of a table's columns and rows as CSV with shortest exact numbers; its index doesn't count."""
    return hashlib.sha256(frame.to_csv(index=False, lineterminator="\n").encode()).hexdigest()


def plain(value: Any) -> Any:
    """A value as JSON has it: NaN is null, an infinity `inf` or `-inf`; tables are lists of rows, sets are sorted."""
    if isinstance(value, pd.DataFrame):
        value = value.to_dict(orient="records")
    elif dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    elif isinstance(value, np.ndarray | np.generic | pd.Index):
        value = value.tolist()
    if isinstance(value, Mapping | pd.Series):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    if isinstance(value, list | tuple | range):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return None if value is pd.NA or value is pd.NaT else str(value)


def to_json(value: Any) -> str:
    """Indented JSON of a result, every float with the digits that give it back."""
    return json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
