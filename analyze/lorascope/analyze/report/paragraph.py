"""What an adapter learned, in a paragraph: each sentence with its error or null, and "can't tell" where that is so."""

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from lorascope.analyze.results.format import format_error, format_number, format_percent
from lorascope.stores import Run
from lorascope.stores.visible import one_line

from .ablation import sentences
from .explain import Explanation
from .sentence import large, where

LEVEL = 0.05
"""Chance of a claim where there is nothing: above it a sentence says that it can't tell."""
N_WORDS = 8
"""Most tokens that a sentence names."""
N_LARGEST = 5
"""Parts whose share of the sum of all is told."""


def paragraph(run: Run, found: Explanation) -> list[tuple[str, str]]:
    """A question and its answer in a sentence or two, as plain text in one line: of each of the five."""
    answers = {
        "Where it acts": _acts(found.qualified),
        "What matters": " ".join(_matters(found)),
        "Which directions": _directions(run, found),
        "Which words": _words(found),
        "How many ranks": _ranks(found),
    }
    return [(question, one_line(answer)) for question, answer in answers.items()]


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
    return after[-1] if after else str(sites[int(found.lens["delta_norm"].fillna(-1).values.argmax())])


def first_words(words: xr.Dataset, site: str, side: str) -> tuple[list[str], float, int]:
    """Tokens that a site's mean delta moves most to a side, p of the first, and how many are beyond the null."""
    at = words.sel(site=site)
    return at[side].values[:N_WORDS].tolist(), float(at[f"{side}_p"].values[0]), int(at[f"n_{side}"])


def but_first(found: xr.Dataset) -> str:
    """What is left out of directions or of the lens, as words to follow "tokens"."""
    return ", position 0 left out" if found.attrs["tokens"] == "from:1" else ""


def quoted(texts: Sequence[str]) -> str:
    """Tokens in quotes, spaces kept and line breaks spelt out."""
    return ", ".join(f"“{one_line(text)}”" for text in texts)


def _acts(qualified: xr.DataTree) -> str:
    miub, error, n = float(qualified["miub"]), float(qualified["miub_se"]), qualified.attrs["n_samples"]
    if not np.isfinite(miub):
        return f"Can't tell, since some values of base or delta aren't finite ({qualified.attrs['n_not_finite']})."
    told = where(qualified)
    told = told[0].upper() + told[1:]
    if not miub:
        return f"{told} in any of {_samples(n)}."
    return f"{told}; MIUB is {format_error(miub, error)} nat over {_samples(n)}{large(qualified)}."


def _samples(n: int) -> str:
    return "one sample, from which no error can be told" if n == 1 else f"{n} samples"


def _matters(found: Explanation) -> Iterator[str]:
    taken = found.ablation
    if taken is None:
        yield f"Can't tell, since {found.why['ablation']}."
        return
    top = taken.isel(part=int(taken["kl"].values.argmax()))
    kl, error, n = float(top["kl"]), float(top["kl_se"]), taken.sizes["part"]
    rest = f"{taken.attrs['n_tokens']} tokens of {_samples(taken.attrs['n_samples'])}"
    if not kl > 2 * error:
        yield f"Can't tell: no part's removal is known to move the next token by twice its error ({rest})."
        return
    # The largest one is behind itself by 0 with an error of 0.
    n_equal = int((taken["behind"] <= 2 * taken["behind_se"]).sum()) - 1
    doubt = f", though {n_equal} of the {n - 1} others can't be told from it" if n_equal else ""
    name = {"components": "", "layers": "layer ", "kinds": "the kind "}[taken.attrs["parts"]] + str(top["part"].item())
    name = "what is outside of the layers" if name == "layer -1" else name
    yield (
        f"Taken out alone, {name} changes the next token most, by a KL of "
        f"{format_error(kl, error)} nat ({rest}){doubt}."
    )
    if n > N_LARGEST:
        share = float(np.sort(taken["kl"].values)[-N_LARGEST:].sum() / taken["kl"].values.sum())
        yield (
            f"The {N_LARGEST} largest of {n} {taken.attrs['parts']} hold {format_percent(share)} of the sum (equal "
            f"ones would hold {format_percent(N_LARGEST / n)})."
        )
    if found.measures is not None:
        is_known = bool(np.isfinite(found.measures["spearman"].sel(measure="js")))
        yield sentences(found.measures)[0] if is_known else "Can't tell whether JS sees what matters: it has no ranks."


def _directions(run: Run, found: Explanation) -> str:
    if found.directions is None:
        return f"Can't tell, since {found.why['directions']}."
    name = chosen_component(found)
    if name not in found.directions["component"]:
        return f"Can't tell for {name}, whose delta is no factor."
    one = found.directions.sel(component=name)
    share, rank, p = float(one["first_share"]), int(one["rank"]), float(one["driver_p"])
    if not share > 0:
        return f"Can't tell: delta of {name} is 0, or not finite."
    held = (
        f"In {name} the first of {rank} holds {format_percent(share)} of |delta|²{but_first(one)} (equal "
        f"ones would hold {format_percent(1 / rank)})"
    )
    count, n_top = int(one["driver_count"]), int((one["token"] >= 0).sum())
    if not p <= LEVEL:
        return (
            f"{held}. Can't tell what drives it: its {n_top} strongest tokens are as mixed as random directions' are."
        )
    text = _text_of(run, int(one["driver"]))
    return (
        f"{held}, and {count} of its {n_top} strongest tokens are {text}, which is "
        f"{format_percent(float(one['driver_share']))} of all (p = {format_number(p)}, beside random directions)."
    )


def _text_of(run: Run, token_id: int) -> str:
    if "text" not in run.tokens:
        return f"token {token_id}"
    place = int(np.flatnonzero(run.tokens["token_id"].values == token_id)[0])
    return quoted([str(run.tokens["text"][place].item())])


def _words(found: Explanation) -> str:
    if found.lens is None:
        return f"Can't tell, since {found.why['lens']}."
    site, parts, least = chosen_site(found), list[str](), 1.0
    for side, verb in (("promoted", "promotes"), ("suppressed", "suppresses")):
        texts, p, n = first_words(found.lens, site, side)
        parts.append(f"{verb} {quoted(texts)} (the first with p = {format_number(p)}; {n} beyond the null)")
        least = min(least, p)
    what = f"mean change of the residual stream {site}" if site.startswith("after ") else f"mean delta of {site}"
    told = f"the {what} {' and '.join(parts)}."
    if least > LEVEL:
        doubt = "with random signs of its features it would move some tokens as far"
        return f"Can't tell: {doubt}. For what it is worth, {told}"
    return told[0].upper() + told[1:]


def _ranks(found: Explanation) -> str:
    if found.directions is None:
        return f"Can't tell, since {found.why['directions']}."
    one = found.directions.isel(component=(found.directions["n_99"] > 0).values)
    n_all, n_left_out = found.directions.attrs["n_tokens"], found.directions.sizes["component"] - one.sizes["component"]
    if not one.sizes["component"]:
        return f"Can't tell: delta is 0 on all of {n_all} tokens{but_first(one)}, or not finite."
    n, rank, halves = int(one["n_99"].sum()), int(one["rank"].sum()), one["n_99_half"].sum("component", skipna=False)
    error = (
        f"in two halves of the tokens {int(halves[0])} and {int(halves[1])}"
        if np.isfinite(halves).all()
        else "its error can't be told from one row of tokens"
    )
    but = f"; left out are {n_left_out} components whose delta is 0, or not finite" if n_left_out else ""
    return (
        f"{n} of {rank} directions hold 99 % of |delta|² on {n_all} tokens{but_first(one)} ({error}); "
        f"{int(one['n_90'].sum())} hold 90 %{but}."
    )
