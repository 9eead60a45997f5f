"""`lorascope info`."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope import analyze, stores
from lorascope.analyze.results.options import TABLE_FORMATS, refuse_target
from lorascope.stores.names import matching_indices
from lorascope.stores.reading.require_run import require_store
from lorascope.stores.size import format_size

from ..options import AsJson, Components, RunPath
from ..screen import aside, note, print_frame, say, write_json

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

    from lorascope.stores import Run


def info(
    run: RunPath,
    /,
    *,
    component: Components = (),
    as_json: AsJson = False,
    out: Path | None = None,
) -> None:
    """Show what a run contains, how large it is, and how much of it is done; works while it is being written.

    Parameters
    ----------
    as_json
        Print one JSON object and nothing else: `run`, `state` ("torn", "unfinished" or "finished"; a torn run has these
        two alone), `format_version`, `stream`, `states`, `fingerprint`, `rows` (`n`, `committed`, `lost`,
        `with_states`), `tokens` (`n`, `committed`, `weighted`), `samples`, `choices`, `components` (`n`, `kinds`,
        `dtypes`), `adapters` (name -> `rank` [least, most], `n_touched`, `n_factored`), `sizes` (list of `part`,
        `raw_bytes`, `stored_bytes`, the whole run last), `scores` (list of `dataset`, `measure`, `unit`, `n`, and
        `base`, `adapted`, `change`, each [value, standard error], null where a value is not available),
        `provenance` and `measured` (as stored; {} where there is none).
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
        with suppress(stores.StoreError):  # the first one says more
            torn = stores.run_state(run) == "torn"
        if not torn:
            raise
    facts: dict[str, Any] = {"run": run, "state": "torn"} if opened is None else _facts(opened, component)
    if as_json:
        write_json(facts)
    elif opened is None:
        say(f"{run}  torn: still being set up, or interrupted then; it holds no row, and its capture can begin again")
    else:
        _print_facts(opened, facts, component)
    if out is not None and opened is not None:
        analyze.save_table(_scores_frame(opened), out)
        say(f"scores saved to {out}", to=aside if as_json else None)


def _print_facts(run: "Run", facts: Mapping[str, Any], patterns: Sequence[str]) -> None:
    """The run on the terminal."""
    whole = f"{facts['rows']['committed']} of {facts['rows']['n']} rows are whole"
    damaged = f"finished, but damaged since: {whole}; run `lorascope verify`"
    state = (damaged if facts["rows"]["lost"] else "finished") if run.finished else f"unfinished: {whole}"
    say(f"{run.place.name}  {state}")
    rows = [*_about_run(run, facts), *_origin(facts["provenance"])]
    print_frame([{"what": what, "value": value} for what, value in rows], "Run")
    sizes = [(size["part"], *map(format_size, (size["raw_bytes"], size["stored_bytes"]))) for size in facts["sizes"]]
    print_frame([dict(zip(("part", "in memory", "on disk"), size, strict=True)) for size in sizes], "Size")
    columns, scores = analyze.scores_table(run)
    if scores:
        print_frame([dict(zip(columns, score, strict=True)) for score in scores], "Scores")
    if patterns:
        table = run.components.isel(component=_chosen(run, patterns)).to_dataframe()
        print_frame(table[["path", "d_in", "d_out", "stored_dtype"]], "Components", names={"path": "component"})


def _chosen(run: "Run", patterns: Sequence[str]) -> list[int]:
    return matching_indices(run.component_paths, patterns or None, of="components of this run")


def _facts(run: "Run", patterns: Sequence[str]) -> dict[str, Any]:
    """What `lorascope info --json` prints of a run that is set up; its components are those that fit the patterns."""
    from lorascope.analyze.results.save import json_value
    from lorascope.analyze.results.scores import scores
    from lorascope.analyze.results.sizes import sizes

    chosen = _chosen(run, patterns)
    committed, table = run.committed.values, run.components.isel(component=chosen)
    adapters = {}
    for name in run.adapters:
        layers = run.adapter(name).isel(component=chosen)
        ranks = layers["rank"].values[layers["rank"].values > 0].tolist()
        n_factored = int((layers["factor_start"].values >= 0).sum())
        rank = [min(ranks, default=0), max(ranks, default=0)]
        adapters[name] = {"rank": rank, "n_touched": len(ranks), "n_factored": n_factored}
    return {
        "run": run.place.name,
        "state": "finished" if run.finished else "unfinished",
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
        "tokens": {
            "n": run.n_tokens,
            "committed": int(committed.sum()),
            "weighted": bool((run.tokens["weight"] != 1).any()),
        },
        "samples": run.samples.sizes["sample"],
        "choices": run.choices.sizes["choice"],
        "components": {
            "n": len(chosen),
            "kinds": dict(sorted(Counter(table["kind"].values.tolist()).items())),
            "dtypes": dict(sorted(Counter(table["stored_dtype"].values.tolist()).items())),
        },
        "adapters": adapters,
        "sizes": [size._asdict() for size in sizes(run)],
        "scores": [
            {name: list(value) if isinstance(value, tuple) else value for name, value in score._asdict().items()}
            for score in scores(run)
        ],
        "provenance": json_value(run.attributes.get("provenance") or {}),
        "measured": json_value(run.attributes.get("measured") or {}),
    }


def _scores_frame(run: "Run") -> "pd.DataFrame":
    """The scores of a run, a row for each data set and measure, with standard errors; `unit` says what it is in."""
    import pandas as pd

    from lorascope.analyze.results.save import with_units
    from lorascope.analyze.results.scores import scores

    rows = [(row.dataset, row.measure, row.unit, row.n, *row.base, *row.adapted, *row.change) for row in scores(run)]
    columns = ["dataset", "measure", "unit", "n", "base", "base_se", "adapted", "adapted_se", "change", "change_se"]
    return with_units(pd.DataFrame(rows, columns=columns), {}, {"run": run.place.name})


def _about_run(run: "Run", facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a run contains."""
    tokens, components, rows = (facts[name] for name in ("tokens", "components", "rows"))
    selection = (facts["provenance"].get("settings") or {}).get("tokens")
    partly = f", in {rows['with_states']} of {rows['committed']} rows" if facts["states"] == "sample" else ""
    yield "stream, states", f"{facts['stream']}, {facts['states']}{partly}"
    yield (
        "tokens",
        f"{tokens['n']}{f' ({selection})' if selection else ''}{', weighted' if tokens['weighted'] else ''} "
        f"of {facts['samples']} samples in {rows['n']} row{'s' if rows['n'] > 1 else ''}",
    )
    yield "components", ", ".join(f"{count} {kind}" for kind, count in components["kinds"].items())
    yield "stored as", ", ".join(f"{count} {dtype}" for dtype, count in components["dtypes"].items())
    for name, adapter in facts["adapters"].items():
        rank = " to ".join(map(str, dict.fromkeys(adapter["rank"])))
        factors = f"{adapter['n_factored']} as factors" if facts["states"] != "none" else "no factors kept"
        yield f"adapter {name}", f"rank {rank} at {adapter['n_touched']} components, {factors}"
        if f"adapters/{name}/ablation" in run.arrays:
            parts = run.ablation(name)
            yield "ablation", f"of {parts.sizes['part']} {parts.attrs['parts']}"
    for remark in facts["provenance"].get("preflight") or []:
        yield "preflight", note(remark.get("message", ""), remark.get("places") or [])
    yield "fingerprint", facts["fingerprint"][:16]


def _origin(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a run was made of."""
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
    device, libraries = provenance.get("device") or {}, provenance.get("libraries") or {}
    if isinstance(device, dict) and device:
        yield "device", ", ".join(str(device[name]) for name in ("type", "name") if device.get(name))
    if libraries:
        named = ("lorascope", "torch", "transformers", "peft", "zarr")
        yield "libraries", ", ".join(f"{name} {libraries[name]}" for name in named if name in libraries)
    if provenance.get("started"):
        yield "started", str(provenance["started"])
    for step in provenance.get("copied") or []:
        yield step["how"], f"from {step['source']} at {step['time']}"
