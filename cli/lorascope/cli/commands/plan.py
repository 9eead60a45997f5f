"""`lorascope plan`."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lorascope.analyze.results.format import format_duration, format_number
from lorascope.capture.config import CaptureConfig
from lorascope.capture.models.gguf import describe_loading
from lorascope.capture.settling.early import check_files
from lorascope.capture.settling.inputs import require_inputs
from lorascope.stores.format.tables import REPLY_SCALES
from lorascope.stores.size import format_size

from ..options import ConfigFile
from ..screen import aside, format_note, importing_libraries, print_frame, progress_bar, say, write_json

if TYPE_CHECKING:
    from lorascope.capture import Plan
    from lorascope.capture.settling.trial import TrialResult, Way


def plan(
    settings: Annotated[CaptureConfig, Parameter(name="*")],
    *,
    config: ConfigFile = None,
    probe: bool = True,
    processes: int | None = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Estimate how much disk, memory and time a capture will need, and whether it fits.

    Nothing stays on disk. The exit code is 1 if the capture doesn't fit, or an adapter can't be captured.

    Parameters
    ----------
    probe
        Load the model and measure how many tokens per second the model, the measures, copies, encoders and the disk
        process. With --no-probe, the model's weights aren't needed.
    processes
        Number of processes that torchrun will start for a model that is spread over them (--tensor-parallel,
        --fully-shard); by default that of --tensor-parallel. Memory and links are then those of one process.
    as_json
        Print one JSON object and nothing else: `ok`, `fits` (`disk`, `device`, `host` -> `parts`, `needed_bytes`,
        `free_bytes`, `fits`), `problems`, `notes`, `remarks`, `ways_to_fit`, `tokens`, counts (`n_tokens`, `n_rows`,
        `n_components`, `n_all_tokens`, `n_samples`, `n_batches`, `n_arrays`, `n_files`), `raw_bytes`, `stored_bytes`,
        `needed_bytes`, `parts` of the run, `trial` (null without one), `bottleneck` (likewise: tokens per
        second by stage and together, `limit`; `ways` has the same by codec and `none`), `seconds` by stage, `codec`,
        `codec_seconds` (of the capture, by codec), `changes` and `ablation` (`passes`, `batches`, `tokens`; {}
        without), `processes`, `links` (exchange -> bytes that a process receives), and `settings`.
    """
    require_inputs(settings, weights=False)
    check_files(settings, runs_here=False)
    say(describe_loading(settings.model, settings.dtype), to=aside)

    with progress_bar("plan") as update:
        with importing_libraries(update):
            from lorascope.capture import plan as plan_capture

        made = plan_capture(
            settings,
            probe=probe,
            processes=processes,
            progress=lambda now: update(now.done, now.total, now.units, now.stage),
        )
    if as_json:
        write_json(made.as_dict())
        return 0 if made.ok else 1
    for line in _verdict_lines(made):
        say(line)
    if made.trials:
        print_frame(rate_rows(made.trials, made.spec.codec), "Tokens per second")
    total = made.estimate
    parts = {p.name: (p.n_arrays, p.n_chunks + p.n_arrays, p.raw_bytes, p.stored_bytes) for p in total.parts}
    whole = (total.n_arrays, total.n_files, total.raw_bytes, total.stored_bytes)
    metadata = [number - sum(column) for number, column in zip(whole, zip(*parts.values(), strict=True), strict=True)]
    rows = [
        {"part": name, "arrays": arrays, "files": files, "in memory": format_size(raw), "on disk": format_size(stored)}
        for name, (arrays, files, raw, stored) in {**parts, "metadata": metadata, "in all": whole}.items()
    ]
    print_frame(rows, "What would be stored")
    memory = [
        {"where": fit.what, "what": what, "size": format_size(size)}
        for fit in made.fit[1:]
        for what, size in fit.parts.items()
    ]
    print_frame(memory, "Memory" if made.processes == 1 else "Memory of one process")
    links = [
        {"exchange": what, "a token": format_size(round(size / made.n_padded)), "in all": format_size(size)}
        for what, size in made.links.items()
    ]
    if links:
        print_frame(links, "Links: what one process receives")
    say("Notes")
    for line in (*(format_note(remark.message, remark.places) for remark in made.notes), *made.remarks):
        say(f"  - {line}")
    return 0 if made.ok else 1


def _verdict_lines(made: "Plan") -> Iterator[str]:
    """Yield lines on whether a capture fits, whether its adapters can be captured, and how long it takes."""
    spec = made.spec
    known = all(need.free_bytes is not None for need in made.fit)
    yield "It doesn't fit." if not made.fits else "It fits." if known else "It fits, as far as it is known."
    for need in made.fit:
        free = "it isn't known how much is free"
        if need.free_bytes is not None:
            free = f"{format_size(need.free_bytes)} are free"
        mark = " ?" if need.free_bytes is None else "ok" if need.fits else "NO"
        each = f" by one process of {made.processes}" * (made.processes > 1 and need.what != "disk")
        yield f"  {mark}  {need.what}: about {format_size(need.needed_bytes)} needed{each}, {free}"
        for way in made.ways if need.what == "disk" else ():
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
    if spec.n_replies:
        n_adapters, n_scales = len(spec.adapters), len(REPLY_SCALES)
        yield (
            f"Replies to {spec.n_replies // n_scales} prompts: {1 + (n_scales - 1) * n_adapters} times all of them are "
            f"written, and {n_scales * n_adapters} passes over all replies measure how likely they are"
        )
    if n := made.changes:
        stored = next(part.stored_bytes for part in made.estimate.parts if part.name == "changes")
        yield (
            f"Next-token changes (`--changes {made.config.changes}`): {n['passes']} passes more, in {n['batches']} of "
            f"{batches} ({n['tokens']} tokens, {format_size(stored)})"
        )
    if n := made.ablation:
        yield (
            f"Ablation of {len(spec.ablation_parts)} {spec.ablate}: {n['passes']} passes more, in {n['batches']} of "
            f"{batches} ({n['tokens']} tokens)"
        )
    if made.links:
        sizes = sum(made.links.values()), made.estimate.stored_bytes
        received, written = (format_size(round(size / made.n_padded)) for size in sizes)
        yield f"For each token that passes, one process receives {received} over links, and {written} go to the disk"
    if made.trial is not None:
        parts = ", ".join(f"{stage} {format_duration(seconds)}" for stage, seconds in made.seconds.items() if seconds)
        total = format_duration(sum(made.seconds.values()))
        limit = made.trial.costs.limit
        yield f"About {total} ({parts}), bound by {limit}, by a trial of {made.trial.tokens} tokens."


def rate_rows(trials: Mapping["Way", "TrialResult"], own: "Way") -> list[dict[str, str]]:
    """Return rows of a table of tokens per second: one row per stage, one column per codec or way to capture."""
    names = {way: f"--codec {way}" for way in trials} | {"none": "--states none", own: "capture"}
    ways = {names[way]: trials[way] for way in sorted(trials, key=lambda way: (way != own, way == "none"))}
    by_stage = {name: tried.costs.rates for name, tried in ways.items()}
    rows: dict[str, dict[str, str]] = {
        stage: {name: format_number(by_stage[name][stage]) for name in ways} for stage in by_stage["capture"]
    }
    rows |= {
        "expected of all": {name: format_number(1 / tried.costs.seconds) for name, tried in ways.items()},
        "bound by": {name: tried.costs.limit for name, tried in ways.items()},
        "as tried": {name: format_number(1 / tried.seconds) for name, tried in ways.items()},
        "of the bare pass": {name: f"{tried.costs.forward / tried.seconds:.0%}" for name, tried in ways.items()},
    }
    return [{"stage by itself": stage, **row} for stage, row in rows.items()]
