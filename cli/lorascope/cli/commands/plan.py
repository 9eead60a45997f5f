"""`lorascope plan`."""

import json
from collections.abc import Iterator
from typing import Annotated

from cyclopts import Parameter

from lorascope.analyze.format import format_number, format_percent
from lorascope.capture import CaptureConfig
from lorascope.capture.planning.plan import Plan
from lorascope.capture.planning.plan import plan as plan_capture
from lorascope.stores.size import format_size

from ..quiet import quiet_libraries
from ..screen import print_table, say

__all__ = ["plan"]

_PLACES = {"disk": "place", "device": "device memory", "host": "host memory"}


def plan(
    config: Annotated[CaptureConfig, Parameter(name="*")],
    *,
    probe: bool = True,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """What a capture would store, hold in memory and take in time, and whether it fits; nothing is kept.

    Parameters
    ----------
    probe
        Whether to load the model and measure how fast it, the copies and the disk are; without, its weights needn't be
        there.
    as_json
        Print the plan as one JSON object.
    """
    quiet_libraries()
    made = plan_capture(config, probe=probe)
    if as_json:
        say(json.dumps(made.as_dict(), indent=2))
    else:
        _print(made)
    return 0 if made.ok else 1


def _print(made: Plan) -> None:
    for line in _verdict(made):
        say(line)
    print_table("What would be stored", ["part", "arrays", "files", "in memory", "on disk"], _parts(made))
    needs = [(need.where, need.what, format_size(need.n_bytes), need.basis) for need in made.needs]
    print_table("Memory", ["where", "what", "size", "which is"], needs)
    if made.times is not None and made.rates is not None:
        print_table("Time", ["stage", "time", "which is"], _times(made))
    say("Notes")
    for note in made.notes:
        places = f" ({', '.join(note.places[:2])}{' ...' if len(note.places) > 2 else ''})" if note.places else ""
        say(f"  - {note.message}{places}")
    for remark in made.remarks:
        say(f"  - {remark}")


def _verdict(made: Plan) -> Iterator[str]:
    """Whether it fits, and whether the adapters can be captured."""
    spec = made.spec
    yield "It fits." if made.fits else "It doesn't fit."
    for one in made.fit:
        free = "nobody knows how much is free" if one.free_bytes is None else f"{format_size(one.free_bytes)} are free"
        mark = " ?" if one.free_bytes is None else "ok" if one.fits else "NO"
        yield f"  {mark}  {_PLACES[one.what]}: about {format_size(one.needed_bytes)} needed, {free}"
        for way in made.ways if one.what == "disk" else ():
            yield f"      - {way}"
    names = ", ".join(repr(adapter.name) for adapter in spec.adapters)
    if not made.problems:
        yield f"  ok  adapter {names}: nothing wrong that shows without a pass of the model"
    for problem in made.problems:
        yield f"  NO  adapter {names}: {problem.message} ({problem.place})"
    yield (
        f"{spec.n_tokens} of {made.n_all_tokens} tokens (`--tokens {made.tokens}`) of {made.n_samples} samples in "
        f"{made.n_batches} batches, {len(spec.components)} components, stream {spec.stream}, states {spec.states}"
    )
    if made.times is not None:
        yield f"About {_duration(made.times.total)}; the slowest is: {made.times.bottleneck}."


def _parts(made: Plan) -> Iterator[tuple[str, str, str, str, str]]:
    estimated = made.estimate
    for part in estimated.parts:
        files = part.n_chunks + part.n_arrays
        yield (part.name, str(part.n_arrays), str(files), format_size(part.raw_bytes), format_size(part.stored_bytes))
    total = (format_size(estimated.raw_bytes), format_size(estimated.stored_bytes))
    yield ("in all", str(estimated.n_arrays), str(estimated.n_files), *total)


def _times(made: Plan) -> Iterator[tuple[str, str, str]]:
    assert made.times is not None
    assert made.rates is not None
    rates = made.rates
    speeds = {
        "score": f"prompts, choices and answers: {format_number(1 / rates.forward_seconds)} tokens/s",
        "forward": f"padding included: {format_number(1 / rates.forward_seconds)} tokens/s",
        "copy": f"into host memory: {format_size(rates.copy_rate)}/s",
        "encode": f"to {format_percent(rates.ratio)} of their size: {format_size(rates.encode_rate)}/s",
        "write": f"onto the disk: {format_size(rates.write_rate)}/s",
    }
    for stage, seconds in made.times.stages.items():
        yield (stage, _duration(seconds), speeds[stage])
    yield ("in all", _duration(made.times.total), "laid beside each other as they will run")


def _duration(seconds: float) -> str:
    """A time as people say it: seconds below 2 minutes, minutes below 2 hours, then hours."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (float("inf"), 3600, "h")):
        if seconds < limit:
            return f"{format_number(seconds / unit)} {name}"
    raise AssertionError(seconds)
