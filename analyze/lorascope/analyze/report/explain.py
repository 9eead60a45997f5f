"""The numbers that say what an adapter learned: where it acts, what matters, directions, words and ranks."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import xarray as xr

from lorascope.analyze.ablation.compare_measures import ablation_by_part, compare_measures
from lorascope.analyze.directions.drivers import directions_by_component
from lorascope.analyze.measuring.run import measure_run
from lorascope.analyze.measuring.sources import available, sources_of
from lorascope.analyze.miub.qualify import QUALIFIERS, qualify
from lorascope.analyze.words.lens import lens
from lorascope.stores import Run, StoreError
from lorascope.stores.progress import Progress
from lorascope.stores.reading.read import RunLike, as_run


class Explanation(NamedTuple):
    """Numbers behind the report; a field is None where the run can't give it, for the reason in `reasons`."""

    qualified: xr.DataTree
    """Result of `qualify`."""
    ablation: xr.Dataset | None
    """Result of `ablation_by_part`."""
    measures: xr.Dataset | None
    """Result of `compare_measures`; None without a reason where other parts than components were ablated."""
    directions: xr.Dataset | None
    """Result of `directions_by_component`, of the tokens after position 0, where there are some."""
    lens: xr.Dataset | None
    """Result of `lens`, of the same tokens."""
    reasons: dict[str, str]
    """Name of a field that is None -> the reason, as the end of a sentence that begins with "Can't tell, since"."""


def explain(
    run: RunLike,
    *,
    adapter: str | None = None,
    components: Sequence[str] | None = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Compute all that a run can tell of what its adapter learned, each number with its error or null.

    Parameters
    ----------
    run
        An open run or its path or url, finished or not.
    adapter
        Name of the adapter; not needed if there is only one.
    components
        Paths of components or patterns, such as `*.q_proj`; by default all. Of some components alone there is neither
        ablation nor lens.
    n_workers
        Threads; by default one a processor.
    progress
        Called with (parts done, parts in all) of each step anew.

    Raises
    ------
    StoreError
        If no sample is wholly committed, the adapter touches no component, or a chunk is broken.
    """
    run = as_run(run)
    names = available(run, ("js", *QUALIFIERS))
    options: dict[str, Any] = {"adapter": adapter, "n_workers": n_workers, "progress": progress}
    measured = measure_run(run, names, components=components, **options)
    qualified = qualify(run, adapter=adapter, measured=measured)
    reasons = _reasons(run, adapter)
    if components is not None:
        reasons |= dict.fromkeys(("ablation", "lens"), "it is only known of all components, and some were chosen")
    ablation = measures = directions = words = None
    if "ablation" not in reasons:
        ablation = ablation_by_part(run, adapter)
        if ablation is None:
            reasons["ablation"] = "no sample was ablated as a whole yet; capture more of the run"
        elif ablation.attrs["parts"] == "components":
            measures = compare_measures(run, adapter=adapter, measured=measured)
    del measured  # js and its qualifiers of each token and component
    # A model's attention sink is at position 0: of some components its delta is far larger than all others.
    position = run.read_once("tokens/position")[(run.committed & run.with_states).values]
    tokens = "from:1" if position.any() and not position.all() else "all"
    if "directions" not in reasons:
        chosen = set(qualified.dataset["component"].values.tolist())
        sources = [source for source in sources_of(run, adapter) if source.component in chosen]
        if factored := [source for source in sources if source.delta.lora_B is not None]:
            directions = directions_by_component(run, factored, tokens, n_workers=n_workers, progress=progress)
        else:
            reasons["directions"] = "no component's delta is kept as a factor (as with DoRA), and only that has ranks"
    if "lens" not in reasons:
        try:
            words = lens(run, adapter=adapter, tokens=tokens, progress=progress)
        except StoreError as error:
            reasons["lens"] = str(error)
    return Explanation(qualified, ablation, measures, directions, words, reasons)


def _reasons(run: Run, adapter: str | None) -> dict[str, str]:
    """Field of an explanation -> why this run can't give it, as far as that is known before anything is computed."""
    reasons = {}
    if run.stream == "base":
        reasons["ablation"] = (
            "stream 'base' has no pass with the adapter; capture stream 'adapted' with `--ablate components`"
        )
    elif f"adapters/{adapter or run.adapters[0]}/ablation" not in run.arrays:
        reasons["ablation"] = "the run holds no ablation; capture it with `--ablate components`"
    if run.stream == "pair":
        reasons["directions"] = "stream 'pair' keeps the whole change; capture stream 'adapted'"
    if "unembedding/weight" not in run.arrays:
        reasons["lens"] = "the run holds no unembedding; capture it with `--unembedding`"
    no_states = ""
    if not run.has_states:
        no_states = "the run keeps no states; capture it with `--states all`"
    elif not (run.committed & run.with_states).any():
        no_states = "none of the tokens with states is committed; capture more of the run"
    return reasons | (dict.fromkeys(("directions", "lens"), no_states) if no_states else {})
