"""`lorascope plan`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lorascope.analyze.results.format import format_duration, format_number
from lorascope.capture.config import CaptureConfig
from lorascope.capture.settling.inputs import require_inputs
from lorascope.stores.size import format_size

from ..screen import aside, note, print_frame, say, write_json

if TYPE_CHECKING:
    from lorascope.capture import Plan
    from lorascope.capture.settling.costs import Costs


def plan(
    settings: Annotated[CaptureConfig, Parameter(name="*")],
    *,
    config: Path | None = None,  # read by `settings_of_file`
    probe: bool = True,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Estimate how much disk, memory and time a capture will need, and whether it fits; nothing stays on disk.

    Parameters
    ----------
    config
        A TOML file of the settings of the capture; see `lorascope capture --help`.
    probe
        Load the model and measure how many tokens a second model, measuring, copies, encoders and disk can do. With
        --no-probe, the model's weights aren't needed.
    as_json
        Print one JSON object and nothing else: `ok`, `fits` (`disk`, `device`, `host` -> `parts`, `needed_bytes`,
        `free_bytes`, `fits`), `problems`, `notes`, `remarks`, `ways_to_fit`, `tokens`, counts (`n_tokens`, `n_rows`,
        `n_components`, `n_all_tokens`, `n_samples`, `n_batches`, `n_arrays`, `n_files`), `raw_bytes`, `stored_bytes`,
        `needed_bytes`, `parts` of the run, `trial` (null without one), `bottleneck` (likewise: tokens a
        second by stage and together, `limit`, `ways` -> the same with them), `seconds` by stage, `codec`,
        `codec_seconds` (of the capture, by codec), `ablation` (`passes`, `batches`, `tokens`; {} without),
        and `settings`.
    """
    require_inputs(settings, weights=False)
    say(f"loading {settings.model}", to=aside)

    from lorascope.capture import plan as plan_capture

    from ..quiet import quiet_libraries

    quiet_libraries()
    made = plan_capture(settings, probe=probe)
    if as_json:
        write_json(made.as_dict())
        return 0 if made.ok else 1
    for line in _verdict(made):
        say(line)
    if made.costs is not None:
        rates = [{"each stage by itself": stage, "tokens/s": rate} for stage, rate in made.costs.rates.items()]
        print_frame(rates, "Tokens a second")
        say(_bound(made.costs, made.faster))
    total = made.estimate
    parts = [(p.name, p.n_arrays, p.n_chunks + p.n_arrays, p.raw_bytes, p.stored_bytes) for p in total.parts]
    parts.append(("in all", total.n_arrays, total.n_files, total.raw_bytes, total.stored_bytes))
    rows = [
        {"part": name, "arrays": arrays, "files": files, "in memory": format_size(raw), "on disk": format_size(stored)}
        for name, arrays, files, raw, stored in parts
    ]
    print_frame(rows, "What would be stored")
    memory = [
        {"where": fit.what, "what": what, "size": format_size(size)}
        for fit in made.fit[1:]
        for what, size in fit.parts.items()
    ]
    print_frame(memory, "Memory")
    say("Notes")
    for line in (*(note(remark.message, remark.places) for remark in made.notes), *made.remarks):
        say(f"  - {line}")
    return 0 if made.ok else 1


def _verdict(made: "Plan") -> Iterator[str]:
    """Whether it fits, and whether the adapters can be captured."""
    spec = made.spec
    yield "It fits." if made.fits else "It doesn't fit."
    for fit in made.fit:
        free = "nobody knows how much is free" if fit.free_bytes is None else f"{format_size(fit.free_bytes)} are free"
        mark = " ?" if fit.free_bytes is None else "ok" if fit.fits else "NO"
        yield f"  {mark}  {fit.what}: about {format_size(fit.needed_bytes)} needed, {free}"
        for way in made.ways if fit.what == "disk" else ():
            yield f"      - {way}"
    names = ", ".join(repr(adapter.name) for adapter in spec.adapters)
    if not made.problems:
        yield f"  ok  adapter {names}: nothing wrong that shows without a pass of the model"
    for problem in made.problems:
        yield f"  NO  adapter {names}: {problem.message} ({problem.place})"
    batches = "1 batch" if made.n_batches == 1 else f"{made.n_batches} batches"
    yield (
        f"{spec.n_tokens} of {made.n_all_tokens} tokens (`--tokens {made.config.tokens}`) of {made.n_samples} samples "
        f"in {batches}, {len(spec.components)} components, stream {spec.stream}, states {spec.states}"
    )
    if len(made.roles) > 1:
        yield f"By role: {', '.join(f'{n} {role}' for role, n in made.roles.items())}"
    if n := made.ablation:
        yield (
            f"Ablation of {len(spec.ablation_parts)} {spec.ablate}: {n['passes']} passes more, in {n['batches']} of "
            f"{batches} ({n['tokens']} tokens)"
        )
    if made.trial is not None:
        parts = ", ".join(f"{stage} {format_duration(seconds)}" for stage, seconds in made.seconds.items() if seconds)
        total = format_duration(sum(made.seconds.values()))
        yield f"About {total} ({parts}), by a trial of {made.trial.tokens} tokens."
    if len(made.codec_seconds) > 1:
        yield _codec_line(made)


def _codec_line(made: "Plan") -> str:
    """How long the capture takes raw and compressed, and which is faster."""
    raw = made.codec_seconds["raw"]
    ((name, compressed),) = ((codec, seconds) for codec, seconds in made.codec_seconds.items() if codec != "raw")
    times = f"raw {format_duration(raw)}, compressed (codec {name}) {format_duration(compressed)}"
    if raw < compressed:
        return f"The capture by codec: {times}. Raw is faster here: `--codec raw`, and a later `lorascope pull`."
    return f"The capture by codec: {times}. Compressing is no slower here."


def _bound(costs: "Costs", faster: Mapping[str, "Costs"]) -> str:
    """How fast all stages are together, which one holds them up, and what would move it."""
    line = f"Together about {format_number(1 / costs.seconds)} tokens/s, bound by: {costs.limit}."
    ways = [
        f"{f'`{way}`' if way.startswith('-') else way} {format_number(1 / costs.seconds)}, then bound by {costs.limit}"
        for way, costs in faster.items()
    ]
    return f"{line} Faster: {'; '.join(ways)}." if ways else line
