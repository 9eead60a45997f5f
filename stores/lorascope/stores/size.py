"""Sizes in bytes as text, such as `50GB`."""

import math
import re
from textwrap import shorten

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
UNITS |= {"KB": 10**3, "TiB": 2**40}

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]+)")


def parse_size(size: str | int) -> int:
    """Return the bytes of a size such as `50GB` or `200 MiB`; an int is bytes already.

    Raises
    ------
    ValueError
        If it isn't a number with a unit, or is below 1 byte.

    Examples
    --------
    >>> parse_size("1.5GB"), parse_size("200 MiB"), parse_size(4096)
    (1500000000, 209715200, 4096)
    """
    match = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if isinstance(size, str) and (match is None or match[2] not in UNITS):
        raise ValueError(f"{size!r} is no size; give a number and a unit, one of {', '.join(UNITS)}, such as '50GB'")
    value = float(match[1]) * UNITS[match[2]] if match else size
    if value == math.inf:
        raise ValueError(f"{shorten(str(size), 40)!r} is more than any machine has; give a size below it")
    n_bytes = int(value)
    if n_bytes < 1:
        raise ValueError(f"{size!r} is less than 1 byte; give a size above 0")
    return n_bytes


def format_size(n_bytes: float) -> str:
    """Return a size in bytes as text, in decimal units with three digits, such as `1.23 MB`.

    Examples
    --------
    >>> format_size(999), format_size(1234567)
    ('999 B', '1.23 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"
