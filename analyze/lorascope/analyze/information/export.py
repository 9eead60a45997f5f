"""Projected pairs as `.npz`, for estimators of elsewhere: the same numbers that ours get."""

import json
import os
import secrets
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..save import refuse_inside_store, require_writable
from .pairs import NoPairs, Projected

__all__ = ["refuse_npz", "write_pairs"]


def refuse_npz(path: Path) -> None:
    """Raise unless pairs may be written under this name.

    Raises
    ------
    ValueError
        If it doesn't end in .npz, or lies inside a store.
    FileExistsError
        If something of that name is there.
    PermissionError
        If nothing can be written there.
    """
    if "://" in str(path) or ":/" in path.as_posix()[1:]:
        raise ValueError(f"`export` is {str(path)!r}; pairs go to a folder of this machine")
    if path.suffix != ".npz":
        raise ValueError(f"`export` is {str(path)!r}; its name must end in .npz")
    if path.exists():
        raise FileExistsError(f"`{path}` is there already; name another, or delete it first")
    refuse_inside_store(path, "export")
    require_writable(path)


def write_pairs(
    path: Path, pairs: Iterable[tuple[str, list[Projected | NoPairs]]], about: dict[str, Any]
) -> dict[str, str]:
    """Write pairs as they come, a component at a time; returns what was left out, and why.

    `numpy.load(path, allow_pickle=False)` reads them: `<component>/x` and `<component>/y`, float64 (n, axis);
    `<component>/sample` and `<component>/token`, int64 (n,); where features were cut into blocks, they are under
    `<component>/<block>/`. `components` lists what stands before x, y, sample and token; `about` is JSON: how pairs
    were made, and under `left_out` what states couldn't be projected. The file appears under its name only when it is
    whole.

    Raises
    ------
    ValueError
        If no states at all can be projected.
    FileExistsError
        If something of that name appeared while pairs were written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")  # of this call alone
    names: list[str] = []
    left_out: dict[str, str] = {}
    try:
        with zipfile.ZipFile(partial, "x", zipfile.ZIP_STORED) as file:
            for component, blocks in pairs:
                for place, block in enumerate(blocks):
                    name = component if len(blocks) == 1 else f"{component}/{place}"
                    if isinstance(block, NoPairs):
                        left_out[name] = block.why
                    else:
                        names.append(name)
                        _write_block(file, name, block)
            if not names:
                (first, why), *_ = left_out.items()
                raise ValueError(f"no states can be projected; the first are those of {first}: {why}")
            _write(file, "components", np.array(names))
            _write(file, "about", np.array(json.dumps({**about, "left_out": left_out})))
        _name(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return left_out


def _name(partial: Path, path: Path) -> None:
    """Give a whole file its name, unless something else has it by now: a rename would write over that."""
    words = f"`{path}` appeared while pairs were written, and is left as it is; name another"
    try:
        os.link(partial, path)
    except FileExistsError as error:
        raise FileExistsError(words) from error
    except OSError as error:  # a file system without hard links
        if path.exists():
            raise FileExistsError(words) from error
        partial.rename(path)


def _write_block(file: zipfile.ZipFile, name: str, block: Projected) -> None:
    arrays = {"x": block.pairs.x, "y": block.pairs.y, "sample": block.pairs.groups_x, "token": block.tokens}
    for key, values in arrays.items():
        _write(file, f"{name}/{key}", values)


def _write(file: zipfile.ZipFile, name: str, values: np.ndarray) -> None:
    with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, np.asarray(values, order="C"), allow_pickle=False)
