"""What an adapter learned, in a paragraph: each sentence with its error or null, and "can't tell" where that is so."""

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from lorascope.analyze.explain import Explanation
from lorascope.analyze.format import format_error, format_number, format_percent
from lorascope.stores import Run

from .ablation import sentences

LEVEL = 0.05
"""Chance of a claim where there is nothing: above it a sentence says that it can't tell."""
N_WORDS = 8
"""Most tokens that a sentence names."""


def paragraph(run: Run, found: Explanation) -> list[tuple[str, str]]:
    """A question and its answer in a sentence or two, as plain text: of each of the five."""
    return [
        ("Where it acts", _acts(found)),
        ("What matters", " ".join(_matters(found))),
        ("Which directions", _directions(run, found)),
        ("Which words", _words(found)),
        ("How many ranks", _ranks(found)),
    ]


def chosen_component(found: Explanation) -> str:
    """The component that is looked into: the one whose ablation costs most, else the one with the largest js."""
    if found.measures is not None:
        return str(found.measures["component"].values[found.measures["ablation"].values.argmax()])
    means = found.qualified.dataset["js"].fillna(-1)
    return str(means["component"].values[int(means.values.argmax())])


def chosen_site(found: Explanation) -> str:
    """Site of the lens that the paragraph is about, chosen without a look at its words.

    The residual difference after the last layer that has one; else the component whose mean delta is the longest.
    """
    assert found.lens is not None
    sites = found.lens["site"].values.tolist()
    after = [site for site in sites if site.startswith("after layer ")]
    return after[-1] if after else str(sites[int(found.lens["delta_norm"].values.argmax())])


def promoted(words: xr.Dataset, site: str, side: str = "promoted") -> list[str]:
    """Tokens that the lens's null doesn't explain at a site, in their order."""
    at = words.sel(site=site)
    there = (at[f"{side}_p"] <= LEVEL).values
    return [str(text) for text in at[side].values[there]]


def quoted(texts: Sequence[str]) -> str:
    """Tokens in quotes, spaces kept."""
    return ", ".join(f"“{text}”" for text in texts)


def _acts(found: Explanation) -> str:
    qualified = found.qualified
    miub, error = float(qualified["miub"]), float(qualified["miub_se"])
    size = f"MIUB {format_error(miub, error)} nat, {qualified.attrs['n_samples']} samples"
    if not miub > 0:
        return f"It moves no layer ({size})."
    js = qualified.dataset["js"]
    parts = []
    for name, noun in (("layer", "layers"), ("kind", "kinds of modules")):
        sums = js.groupby(name).sum().sortby(name)
        order = np.argsort(-sums.values, kind="stable")
        n = int(np.searchsorted(np.cumsum(sums.values[order]) / sums.values.sum(), 0.5)) + 1
        names = [str(sums[name].values[place]) for place in sorted(order[:n])] if n <= 5 else []
        said = f"{noun} {', '.join(names)}" if names else f"{n} of its {len(order)} {noun}"
        parts.append(f"Half of the push on the layers' outputs falls on {said}" if not parts else f"half on {said}")
    if "js_permuted" not in qualified:
        return f"{parts[0]}, {parts[1]} ({size})."
    ratio = miub / float(qualified["js_permuted"].sum(skipna=False))
    null = f"{format_number(ratio)} times what the same change does with its features shuffled"
    return f"{parts[0]}, {parts[1]} ({size}; {null})."


def _matters(found: Explanation) -> Iterator[str]:
    taken = found.ablation
    if taken is None:
        yield f"Can't tell, since {found.why['ablation']}."
        return
    top = taken.isel(part=int(taken["kl"].values.argmax()))
    kl, error = float(top["kl"]), float(top["kl_se"])
    rest = f"{taken.attrs['n_tokens']} tokens of {taken.attrs['n_samples']} samples"
    if not kl > 2 * error:
        yield f"Can't tell: no part's removal moves the next token by twice its error ({rest})."
        return
    share = np.sort(taken["kl"].values)[::-1][:5].sum() / taken["kl"].values.sum()
    what = {"components": "", "layers": "layer ", "kinds": "all "}[taken.attrs["parts"]]
    yield (
        f"Taken out alone, {what}{top['part'].item()} changes the next token most, by a KL of "
        f"{format_error(kl, error)} nat ({rest}); the five largest of {taken.sizes['part']} {taken.attrs['parts']} "
        f"hold {format_percent(float(share))} of the sum."
    )
    if found.measures is not None:
        yield sentences(found.measures)[0]


def _directions(run: Run, found: Explanation) -> str:
    if found.directions is None:
        return f"Can't tell, since {found.why['directions']}."
    name = chosen_component(found)
    if name not in found.directions["component"]:
        return f"Can't tell for {name}, whose delta is no factor."
    one = found.directions.sel(component=name)
    share, rank, p = float(one["first_share"]), int(one["rank"]), float(one["driver_p"])
    held = (
        f"In {name} the first of {rank} holds {format_percent(share)} of |delta|² (equal ones would "
        f"hold {format_percent(1 / rank)})"
    )
    count, n_top = int(one["driver_count"]), int((one["token"] >= 0).sum())
    if not p <= LEVEL:
        return f"{held}. Can't tell what drives it: no token is over-represented among its {n_top} strongest."
    text = _text_of(run, int(one["driver"]))
    return (
        f"{held}, and {count} of its {n_top} strongest tokens are {text}, which is "
        f"{format_percent(float(one['driver_share']))} of all tokens (p = {format_number(p)})."
    )


def _text_of(run: Run, token_id: int) -> str:
    if "text" not in run.tokens:
        return f"token {token_id}"
    place = int(np.flatnonzero(run.tokens["token_id"].values == token_id)[0])
    return quoted([str(run.tokens["text"][place].item())])


def _words(found: Explanation) -> str:
    if found.lens is None:
        return f"Can't tell, since {found.why['lens']}."
    site, parts = chosen_site(found), []
    for side in ("promoted", "suppressed"):
        if texts := promoted(found.lens, site, side)[:N_WORDS]:
            least = float(found.lens[f"{side}_p"].sel(site=site).values[: len(texts)].max())
            n = int(found.lens[f"n_{side}"].sel(site=site))
            verb = "promotes" if side == "promoted" else "suppresses"
            parts.append(f"{verb} {quoted(texts)} ({n} tokens beyond its null, p at most {format_number(least)})")
    where = f"The mean change {site}" if site.startswith("after") else f"The mean delta of {site}"
    if not parts:
        return f"Can't tell: {where[0].lower()}{where[1:]} promotes no token beyond the null of its shuffled features."
    return f"{where} {' and '.join(parts)}."


def _ranks(found: Explanation) -> str:
    if found.directions is None:
        return f"Can't tell, since {found.why['directions']}."
    one = found.directions
    n, rank, halves = int(one["n_99"].sum()), int(one["rank"].sum()), one["n_99_half"].sum("component", skipna=False)
    error = (
        f"in two halves of the tokens {int(halves[0])} and {int(halves[1])}"
        if np.isfinite(halves).all()
        else "its error can't be told from one row of tokens"
    )
    return (
        f"{n} of {rank} directions hold 99 % of |delta|² on these tokens ({error}); {int(one['n_90'].sum())} hold 90 %."
    )
