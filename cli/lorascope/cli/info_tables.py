"""What `lorascope info` tells of a run, as JSON values and on the terminal."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.results.record import plain
from lorascope.analyze.results.save_table import with_units
from lorascope.analyze.results.scores import scores, scores_table
from lorascope.analyze.results.sizes import sizes
from lorascope.stores import Run
from lorascope.stores.names import matching
from lorascope.stores.size import format_size

from .screen import note, print_table, say


def print_facts(run: Run, facts: Mapping[str, Any], patterns: Sequence[str], *, full: bool) -> None:
    """The run on the terminal."""
    whole = f"{facts['rows']['committed']} of {facts['rows']['n']} rows are whole"
    damaged = f"finished, but damaged since: {whole}; run `lorascope verify`"
    state = (damaged if facts["rows"]["lost"] else "finished") if run.finished else f"unfinished: {whole}"
    say(f"{run.place.name}  {state}")
    print_table("Run", ["what", "value"], [*_rows(run, facts), *_origin(facts["provenance"])])
    if patterns:
        table = run.components.isel(component=_chosen(run, patterns)).to_dataframe()
        columns = ["path", "d_in", "d_out", "stored_dtype"]
        print_table("Components", ["component", *columns[1:]], table[columns].astype(str).values.tolist())
    if full:
        _print_rest(run, facts)


def _chosen(run: Run, patterns: Sequence[str]) -> list[int]:
    return matching(run.component_paths, patterns or None, of="of this run")


def facts_of(run: Run, patterns: Sequence[str] = ()) -> dict[str, Any]:
    """What `lorascope info --json` prints of a run that is set up; its components are those that fit the patterns."""
    chosen = _chosen(run, patterns)
    committed, table = run.committed.values, run.components.isel(component=chosen)
    adapters = {}
    for name in run.adapters:
        one = run.adapter(name).isel(component=chosen)
        touched = one["rank"].values[one["rank"].values > 0].tolist()
        n_factored = int((one["factor_start"].values >= 0).sum())
        rank = [min(touched, default=0), max(touched, default=0)]
        adapters[name] = {"rank": rank, "n_touched": len(touched), "n_factored": n_factored}
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
            {
                name: [float(one) if np.isfinite(one) else None for one in value] if isinstance(value, tuple) else value
                for name, value in score._asdict().items()
            }
            for score in scores(run)
        ],
        "provenance": plain(run.attributes.get("provenance") or {}),
        "measured": plain(run.attributes.get("measured") or {}),
    }


def scores_frame(run: Run) -> pd.DataFrame:
    """The scores of a run, a row for each data set and measure, with standard errors; `unit` says what it is in."""
    rows = [(one.dataset, one.measure, one.unit, one.n, *one.base, *one.adapted, *one.change) for one in scores(run)]
    columns = ["dataset", "measure", "unit", "n", "base", "base_se", "adapted", "adapted_se", "change", "change_se"]
    return with_units(pd.DataFrame(rows, columns=columns), {}, {"run": run.place.name})


def _rows(run: Run, facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
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
        kept = f"{adapter['n_factored']} as factors" if facts["states"] != "none" else "no factors kept"
        yield f"adapter {name}", f"rank {rank} at {adapter['n_touched']} components, {kept}"
        if f"adapters/{name}/ablation" in run.arrays:
            parts = run.ablation(name)
            yield "ablation", f"of {parts.sizes['part']} {parts.attrs['parts']}"
    whole = facts["sizes"][-1]
    yield "size", f"{format_size(whole['stored_bytes'])} on disk, {format_size(whole['raw_bytes'])} in memory"
    for dataset, measure, n, base, adapted, change in scores_table(run)[1]:
        if measure.split(" (")[0] in ("ACC", "CE", "PPL"):  # the rest under --full
            changed = f": {change}" if change else ""
            yield f"{dataset}: {measure}", f"{base} without, {adapted} with the adapter{changed}, n = {n}"
    if notes := facts["provenance"].get("preflight"):
        yield "preflight", f"{len(notes)} note{'s' if len(notes) > 1 else ''}, shown by --full"
    yield "fingerprint", facts["fingerprint"][:16]


def _origin(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    settings = provenance.get("settings") or {}
    identities = {"model": [provenance.get("model")], "adapter": list((provenance.get("adapters") or {}).values())}
    for name in ("model", "adapter", "data"):
        value = settings.get(name) or []
        given = ", ".join(map(str, value if isinstance(value, list | tuple) else [value]))
        found = [one for one in identities.get(name, []) if isinstance(one, dict)]
        if hashes := ", ".join(one["sha256"][:16] for one in found if "sha256" in one):
            given += f" (sha256 {hashes})"
        if given:
            yield f"from {name}", given
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


def _print_rest(run: Run, facts: Mapping[str, Any]) -> None:
    parts = [(s["part"], format_size(s["raw_bytes"]), format_size(s["stored_bytes"])) for s in facts["sizes"]]
    print_table("Size", ["part", "in memory", "on disk"], parts)
    columns, rows = scores_table(run)
    if rows:
        print_table("Scores", columns, rows)
    if notes := facts["provenance"].get("preflight"):
        told = [(str(n.get("kind", "")), note(n.get("message", ""), n.get("places") or [])) for n in notes]
        print_table("Notes of the preflight", ["kind", "what"], told)
