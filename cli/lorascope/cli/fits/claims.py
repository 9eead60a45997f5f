"""What a text claims of a table, from words on the command line: orders, directions, ceilings, ratios."""

import math
from collections.abc import Collection, Sequence
from typing import cast

from lorascope.analyze.audit.ceilings import Ceiling
from lorascope.analyze.audit.monotone import Direction
from lorascope.analyze.audit.ratios import Kind, RatioClaim

from .options import assigned, listed

__all__ = ["ceilings_of", "claims_of", "directions_of", "orders_of", "vectors_of"]

BECAUSE = "that is what was said to be possible"


def vectors_of(texts: Sequence[str]) -> list[tuple[str, ...]]:
    """Metrics that share weights, from `CE,MIUB`, for each vector of weights."""
    found = [listed(one) for one in texts]
    for names in found:
        if len(set(names)) < len(names) or sum(set(names) == set(other) for other in found) > 1:
            raise ValueError(f"`weighted` names {', '.join(names)!r} twice; name each once")
    return found


def orders_of(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Name -> settings, from `rank=r32,r128`."""
    return {name: listed(settings) for name, settings in _each_once("order", texts).items()}


def directions_of(texts: Sequence[str]) -> dict[str, Direction]:
    """Metric -> direction, from `ACC=rises`; what isn't a direction is refused where it is used."""
    return {metric: cast(Direction, direction) for metric, direction in _each_once("direction", texts).items()}


def ceilings_of(texts: Sequence[str], metrics: Collection[str]) -> dict[str, Ceiling]:
    """Metric -> ceiling, from `CE=10.4`, or `CE/Phi3=10.4` where no metric has that name."""
    whole: dict[str, float] = {}
    by_group: dict[str, dict[str, float]] = {}
    for name, text in _each_once("ceiling", texts).items():
        value = _number("ceiling", name, text)
        metric, _, group = name.partition("/")
        if not group or name in metrics:
            whole[name] = value
        else:
            by_group.setdefault(metric, {})[group] = value
    both = next((metric for metric in whole if metric in by_group), None)
    if both is not None:
        raise ValueError(f"`ceiling` gives {both!r} one for all groups and one for a group; give either")
    values: dict[str, float | dict[str, float]] = {**whole, **by_group}
    return {metric: Ceiling(value=value, because=BECAUSE) for metric, value in values.items()}


def claims_of(kind: str, texts: Sequence[str], *, has_groups: bool) -> list[RatioClaim]:
    """Claims of a kind, from `CE,share8/share1,AVG,Phi3=571`; without the last name where there are no groups."""
    return [_claim(kind, text, has_groups=has_groups) for text in texts]


def _claim(kind: str, text: str, *, has_groups: bool) -> RatioClaim:
    place, stated = assigned(kind, text)
    names = listed(place)
    settings = names[1].split("/") if len(names) > 1 else []
    if len(names) != 3 + has_groups or len(settings) != 2:
        wanted = "metric,setting/setting,member" + (",group" if has_groups else "")
        raise ValueError(f"`{kind}` is {text!r}; write it as {wanted}=value")
    return RatioClaim(
        words=f"{kind} of {stated}",
        value=_number(kind, place, stated),
        metric=names[0],
        of=settings[0].strip(),
        over=settings[1].strip(),
        member=names[2],
        group=names[3] if has_groups else "",
        kind=cast(Kind, kind),
        decimals=len(stated.partition(".")[2]) if stated.replace(".", "", 1).isdecimal() else None,
    )


def _each_once(option: str, texts: Sequence[str]) -> dict[str, str]:
    found = dict(assigned(option, text) for text in texts)
    if len(found) < len(texts):
        raise ValueError(f"`{option}` is {list(texts)}; name each once")
    return found


def _number(option: str, name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"`{option}` gives {name!r} {text!r}, where a number belongs")
    return number
