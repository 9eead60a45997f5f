"""`lorascope info`."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope import analyze, stores
from lorascope.analyze.results.options import TABLE_FORMATS, refuse_target
from lorascope.stores.format.meshes import rows_by_mesh
from lorascope.stores.names import matching_indices
from lorascope.stores.reading.require_run import require_store
from lorascope.stores.reading.token_choice import recorded_choices
from lorascope.stores.size import format_size

from ..options import AsJson, Components, RunPath
from ..screen import aside, format_note, print_frame, say, write_json

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]
    import xarray as xr

    from lorascope.stores import Run


def info(
    run: RunPath,
    /,
    *,
    component: Components = (),
    full: bool = False,
    as_json: AsJson = False,
    out: Path | None = None,
) -> None:
    """Show what a run contains, how much of it is done, and the scores of its adapter.

    This works while the run is being written. `lorascope verify` checks whether its numbers are sound.

    Parameters
    ----------
    full
        Also print the size of each part of the run, and the machine and libraries that wrote it. Sizes of a run in an
        object store take a request for each 1,000 objects.
    as_json
        Print one JSON object and nothing else: `run`, `state` ("torn", "unfinished" or "finished"; a torn run has these
        two alone), `format_version`, `stream`, `states`, `fingerprint`, `rows` (`n`, `committed`, `lost`,
        `with_states`), `meshes` (list of `tensor_parallel`, the number of processes that shared each layer, and `rows`,
        the [start, stop) ranges that they wrote), `tokens` (`n`, `committed`, `weighted`), `samples`, `choices`,
        `components` (`n`, `kinds`, `dtypes`), `adapters` (name -> `rank` [least, most], `n_touched`, `n_factored`),
        `neutral` (name -> `state`, `source`, `kl`, `kl_se`, `n_tokens`, `n_samples`; {} without neutral texts),
        `null_adapters` (name -> `ce_change`, `kl` and `miub`, each with the numbers of `analyze.null_adapters`, such as
        `value`, `null_mean` and `p`; {} without nulls), `sizes` (list of `part`, `raw_bytes`, `stored_bytes`, the whole
        run last), `scores` (list of `dataset`, `measure`, `unit`, `n`, and `base`, `adapted`, `change`, each [value,
        standard error], null if a value is not available), `provenance` and `measured` (as stored; {} if absent).
    out
        Save the scores here: a name ending in .csv, .parquet, .json, .nc or .zarr.
    """
    if out is not None:
        refuse_target(out, TABLE_FORMATS)
    run = require_store(run)

    opened, torn = None, False
    try:
        opened = stores.open_run(run)
    except stores.StoreError:
        with suppress(stores.StoreError):  # the first error explains more
            torn = stores.run_state(run) == "torn"
        if not torn:
            raise
    facts: dict[str, Any] = {"run": run, "state": "torn"}
    if opened is not None:
        facts = run_facts(opened, component, with_sizes=full or as_json or not opened.place.remote)
    if as_json:
        write_json(facts)
    elif opened is None:
        say(f"{run}  torn: still being set up, or interrupted then; it holds no row, and its capture can begin again")
    else:
        _print_run(opened, facts, component, full=full)
    if out is not None and opened is not None:
        analyze.save_table(_scores_frame(opened), out)
        say(f"scores saved to {out}", to=aside if as_json else None)


def _print_run(run: "Run", facts: Mapping[str, Any], patterns: Sequence[str], *, full: bool) -> None:
    """Print the state of a run, what was captured, and the scores; with `full` also sizes and provenance."""
    complete = f"{facts['rows']['committed']} of {facts['rows']['n']} rows are whole"
    damaged = f"finished, but damaged since: {complete}; run `lorascope verify`"
    state = (damaged if facts["rows"]["lost"] else "finished") if run.finished else f"unfinished: {complete}"
    say(f"{run.place.name}  {state}")
    _print_pairs([*_contents(run, facts), *_inputs(facts["provenance"])])
    columns, scores = analyze.scores_table(run)
    if scores:
        shorter = {"without adapter": "without", "with adapter": "with"}
        rows = [dict(zip(columns, score, strict=True)) for score in scores]
        print_frame(rows, "Scores without and with the adapter", names=shorter)
    if patterns:
        table = run.components.isel(component=_chosen_places(run, patterns)).to_dataframe()
        print_frame(table[["path", "d_in", "d_out", "stored_dtype"]], "Components", names={"path": "component"})
    if full:
        sizes = [
            (size["part"], *map(format_size, (size["raw_bytes"], size["stored_bytes"]))) for size in facts["sizes"]
        ]
        print_frame([dict(zip(("part", "in memory", "on disk"), size, strict=True)) for size in sizes], "Size")
        _print_pairs(_environment(facts))
    else:
        say("--full shows the sizes of its parts, and the machine and libraries that wrote it")


def _print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Print (name, value) pairs in two columns, one pair per line."""
    for name, value in pairs:
        say(f"  {name:<16} {value}")


def _chosen_places(run: "Run", patterns: Sequence[str]) -> list[int]:
    """Return the indices of the components whose paths fit any pattern, or of all without patterns."""
    return matching_indices(run.component_paths, patterns or None, of="components of this run")


def run_facts(run: "Run", patterns: Sequence[str], *, with_sizes: bool = True) -> dict[str, Any]:
    """Return what `lorascope info --json` prints on a run, for the components that fit the patterns, as a dict.

    Sizes need a list of all files or objects; without it they are [].
    """
    from lorascope.analyze.changes.forgetting import next_token_kl, text_source
    from lorascope.analyze.results.save import json_value
    from lorascope.analyze.results.scores import scores
    from lorascope.analyze.results.sizes import sizes
    from lorascope.stores.reading.read import open_neutral

    neutral = open_neutral(run)
    chosen = _chosen_places(run, patterns)
    committed, table = run.committed.values, run.components.isel(component=chosen)
    states, adapters = ("unfinished", "finished"), {}
    for name in run.adapters:
        layers = run.adapter(name).isel(component=chosen)
        ranks = layers["rank"].values[layers["rank"].values > 0].tolist()
        n_factored = int((layers["factor_start"].values >= 0).sum())
        rank = [min(ranks, default=0), max(ranks, default=0)]
        adapters[name] = {"rank": rank, "n_touched": len(ranks), "n_factored": n_factored}
    return {
        "run": run.place.name,
        "state": states[run.finished],
        "format_version": run.attributes["format_version"],
        "stream": run.stream,
        "states": run.states,
        "fingerprint": str(run.attributes.get("fingerprint", "")),
        "rows": {
            "n": run.n_rows,
            "committed": int(run.committed_rows.sum()),
            "lost": len(run.lost_rows),
            "with_states": int((run.committed_rows & run.state_rows).sum()),
        },
        "meshes": [
            {"tensor_parallel": n, "rows": rows} for n, rows in rows_by_mesh(run.attributes, run.committed_rows)
        ],
        "tokens": {
            "n": run.n_tokens,
            "committed": int(committed.sum()),
            "weighted": bool("tokens/weight" in run.arrays and (run.read_static("tokens/weight") != 1).any()),
        },
        "samples": run.samples.sizes["sample"],
        "choices": run.choices.sizes["choice"],
        "components": {
            "n": len(chosen),
            "kinds": dict(sorted(Counter(table["kind"].values.tolist()).items())),
            "dtypes": dict(sorted(Counter(table["stored_dtype"].values.tolist()).items())),
        },
        "adapters": adapters,
        "neutral": {}
        if neutral is None
        else {
            name: {"state": states[neutral.finished], "source": text_source(neutral)}
            | next_token_kl(neutral, name)._asdict()
            for name in run.adapters
        },
        "null_adapters": {
            name: _null_facts(analyze.null_adapters(run, adapter=name))
            for name in run.adapters
            if f"adapters/{name}/nulls/kl" in run.arrays
        },
        "sizes": [size._asdict() for size in sizes(run)] if with_sizes else [],
        "scores": [
            {name: list(value) if isinstance(value, tuple) else value for name, value in score._asdict().items()}
            for score in scores(run)
        ],
        "provenance": json_value(run.attributes.get("provenance") or {}),
        "measured": json_value(run.attributes.get("measured") or {}),
    }


def _null_facts(compared: "xr.Dataset") -> dict[str, Any]:
    """Return measure -> numbers on an adapter and its nulls, from the result of `null_adapters`."""
    rows = compared.drop_vars("nulls").to_dataframe().to_dict("index")
    counts = {name: compared.attrs[name] for name in ("n_nulls", "n_samples")}
    return {measure: {**row, **counts} for measure, row in rows.items()}


def _scores_frame(run: "Run") -> "pd.DataFrame":
    """Return a run's scores (accuracy, CE, ...) with standard errors, one row per data set and measure."""
    import pandas as pd

    from lorascope.analyze.results.save import with_units
    from lorascope.analyze.results.scores import scores

    rows = [(row.dataset, row.measure, row.unit, row.n, *row.base, *row.adapted, *row.change) for row in scores(run)]
    columns = ["dataset", "measure", "unit", "n", "base", "base_se", "adapted", "adapted_se", "change", "change_se"]
    return with_units(pd.DataFrame(rows, columns=columns), {}, {"run": run.place.name})


def _contents(run: "Run", facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of each thing that a run contains, such as tokens, and remarks of checks before capture."""
    from lorascope.analyze.changes.forgetting import describe_forgetting
    from lorascope.analyze.results.null_adapters import describe_nulls

    tokens, components, rows = (facts[name] for name in ("tokens", "components", "rows"))
    selection = recorded_choices(facts["provenance"])
    partly = f", in {rows['with_states']} of {rows['committed']} rows" if facts["states"] == "sample" else ""
    yield (
        "tokens",
        f"{tokens['n']}{f' ({selection})' if selection else ''}{', weighted' if tokens['weighted'] else ''} "
        f"of {facts['samples']} samples in {rows['n']} row{'s' if rows['n'] > 1 else ''}",
    )
    if len(facts["meshes"]) > 1:
        yield "rows by", "; ".join(map(_describe_mesh, facts["meshes"]))
    yield "components", ", ".join(f"{count} {kind}" for kind, count in components["kinds"].items())
    for name, adapter in facts["adapters"].items():
        rank = " to ".join(map(str, dict.fromkeys(adapter["rank"])))
        factors = f"{adapter['n_factored']} as factors" if facts["states"] != "none" else "no factors kept"
        yield f"adapter {name}", f"rank {rank} at {adapter['n_touched']} components, {factors}"
        if f"adapters/{name}/ablation" in run.arrays:
            parts = run.ablation(name)
            yield "ablation", f"of {parts.sizes['part']} {parts.attrs['parts']}"
        if f"adapters/{name}/nulls/kl" in run.arrays:
            yield "null adapters", describe_nulls(analyze.null_adapters(run, adapter=name))
        if forgotten := describe_forgetting(run, name):
            yield "forgetting", forgotten
    yield "stream, states", f"{facts['stream']}, {facts['states']}{partly}"
    yield "stored as", ", ".join(f"{count} {dtype}" for dtype, count in components["dtypes"].items())
    for size in facts["sizes"][-1:]:  # the whole run
        raw, stored = (format_size(size[f"{n}_bytes"]) for n in ("raw", "stored"))
        yield "size", f"{raw} in memory, {stored} on disk"
    for remark in facts["provenance"].get("preflight") or []:
        yield "preflight", format_note(remark.get("message", ""), remark.get("places") or [])


def _describe_mesh(mesh: Mapping[str, Any]) -> str:
    """Return which rows some processes wrote, such as `2 processes a layer: 0 to 4, 7`."""
    ranges = (f"{start} to {stop - 1}" if stop - start > 1 else str(start) for start, stop in mesh["rows"])
    n = mesh["tensor_parallel"]
    return f"{n} process{'es' if n > 1 else ''} a layer: {', '.join(ranges)}"


def _inputs(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of a run's model, adapters and data, and of the copies that led to it."""
    settings = provenance.get("settings") or {}
    identities = {"model": [provenance.get("model")], "adapter": list((provenance.get("adapters") or {}).values())}
    for name in ("model", "adapter", "data"):
        value = settings.get(name) or []
        places = ", ".join(map(str, value if isinstance(value, list | tuple) else [value]))
        known = [identity for identity in identities.get(name, []) if isinstance(identity, dict)]
        if hashes := ", ".join(identity["sha256"][:16] for identity in known if "sha256" in identity):
            places += f" (sha256 {hashes})"
        if places:
            yield f"from {name}", places
    for step in provenance.get("copied") or []:
        yield step["how"], f"from {step['source']} at {step['time']}"


def _environment(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of the fingerprint of a run, its device and libraries, and when it was started."""
    provenance = facts["provenance"]
    yield "fingerprint", facts["fingerprint"][:16]
    device, libraries = provenance.get("device") or {}, provenance.get("libraries") or {}
    if isinstance(device, dict) and device:
        yield "device", ", ".join(str(device[name]) for name in ("type", "name") if device.get(name))
    if libraries:
        shown = ("lorascope", "torch", "transformers", "peft", "zarr")
        yield "libraries", ", ".join(f"{name} {libraries[name]}" for name in shown if name in libraries)
    if provenance.get("started"):
        yield "started", str(provenance["started"])
