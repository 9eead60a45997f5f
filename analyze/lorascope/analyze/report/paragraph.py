"""A paragraph on what an adapter did and learned: each sentence with its error or null, or "can't tell" and why."""

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from lorascope.analyze.measuring.captured import captured_measure
from lorascope.analyze.results.format import format_error, format_number, format_percent
from lorascope.analyze.results.scores import scores
from lorascope.analyze.results.weights import token_weights, weighted_mean
from lorascope.stores import Run
from lorascope.stores.visible import one_line

from .explain import Explanation
from .helped import helped
from .main_places import main_places, than_shuffled
from .matters import prediction

LEVEL = 0.05
"""Largest p with which a sentence claims something; above it the sentence says that it can't tell."""
NO_BREAK = "\N{NO-BREAK SPACE}"
N_WORDS = 8
"""Most tokens that a sentence names."""
N_LARGEST = 5
"""Number of the largest parts whose share of the sum is reported."""


def paragraph(run: Run, explanation: Explanation) -> list[tuple[str, str]]:
    """Six questions about an adapter, each with its answer in a few sentences of plain text in one line.

    Parameters
    ----------
    run
        The run that was explained.
    explanation
        What `explain` returned.
    """
    answers = {
        "Does it help?": helped(scores(run)),
        "Where does it act?": f"{where_it_acts(explanation.qualified)} {_effect(explanation.qualified)}".strip(),
        "What matters?": " ".join(_matters(run, explanation)),
        "Which directions?": _directions(run, explanation),
        "Which words?": _words(explanation),
        "How many ranks?": _ranks(explanation),
    }
    return [(question, one_line(answer)) for question, answer in answers.items()]


def main_component(explanation: Explanation) -> str:
    """The component whose directions are shown: whose removal costs most, else the one with the largest js."""
    if explanation.measures is not None:
        costs = explanation.measures["ablation"].values
        return str(explanation.measures["component"].values[costs.argmax()])
    js = explanation.qualified.dataset["js"].fillna(-1)
    return str(js["component"].values[int(js.values.argmax())])


def main_site(lens: xr.Dataset) -> str:
    """Site of the lens that the paragraph is about, chosen without a look at its words.

    The change of the residual stream after the last layer that has one; else the component whose mean delta is the
    longest.
    """
    sites = lens["site"].values.tolist()
    after = [site for site in sites if site.startswith("after layer ")]
    return after[-1] if after else str(sites[int(lens["delta_norm"].fillna(-1).values.argmax())])


def top_words(lens: xr.Dataset, site: str, side: str) -> tuple[str, float, int]:
    """Tokens that a site's mean delta moves most to a side, p of the first, and how many have a p up to 0.05."""
    row = lens.sel(site=site)
    return quoted(row[side].values[:N_WORDS].tolist()), float(row[f"{side}_p"].values[0]), int(row[f"n_{side}"])


def over_tokens(result: xr.Dataset, n_tokens: int) -> str:
    """The tokens that directions or the lens are about, and which were left out, as words."""
    return f"{n_tokens} tokens{', without the first of each sample' if result.attrs['tokens'] == 'from:1' else ''}"


def quoted(texts: Sequence[str]) -> str:
    """Tokens in quotes, line breaks spelt out; no-break spaces, as a browser would join or break others."""
    return ", ".join(f"“{one_line(text).replace(' ', NO_BREAK)}”" for text in texts)


def where_it_acts(qualified: xr.DataTree) -> str:
    """Say where an adapter acts and whether that is much, from what `qualify` returns."""
    miub = float(qualified["miub"])
    if not np.isfinite(miub):
        return f"Can't tell, since {qualified.attrs['n_not_finite']} values of base or delta aren't finite."
    if not miub:
        return f"Nowhere: it changes no module's output, in any of {_samples(qualified.attrs['n_samples'])}."
    return f"{main_places(qualified)} {than_shuffled(qualified)}"


def _effect(qualified: xr.DataTree) -> str:
    """What the effect is whose shares `where_it_acts` reports, and its size."""
    miub, error = float(qualified["miub"]), float(qualified["miub_se"])
    if not miub > 0:
        return ""
    return (
        "The effect on a module, a layer to which the adapter adds something, is how far its output, read as "
        "probabilities, is from what it would be without the adapter (Jensen-Shannon divergence, JS; the sum over all "
        "modules is called MIUB and is "
        f"{format_error(miub, error)} nat over {_samples(qualified.attrs['n_samples'])})."
    )


def _samples(n: int) -> str:
    return "one sample, which gives no error" if n == 1 else f"{n} samples"


def _matters(run: Run, explanation: Explanation) -> Iterator[str]:
    moved = captured_measure(run, "kl", explanation.qualified.attrs["adapter"])
    known = np.empty(0, int) if moved is None else np.flatnonzero(np.isfinite(moved.values))
    if moved is not None and len(known):
        mean = weighted_mean(moved.values[known], token_weights(run)[known])
        yield (
            "The whole adapter changes the model's prediction of the next token by a Kullback-Leibler divergence (KL) "
            f"of {format_number(mean)} nat (0 would be no change; mean over {len(known)} tokens)."
        )
    ablation = explanation.ablation
    if ablation is None:
        yield f"Can't tell which part matters, since {explanation.reasons['ablation']}."
        return
    top = ablation.isel(part=int(ablation["kl"].values.argmax()))
    kl, error, n = float(top["kl"]), float(top["kl_se"]), ablation.sizes["part"]
    tokens = f"{ablation.attrs['n_tokens']} tokens of {_samples(ablation.attrs['n_samples'])}"
    if not kl > 2 * error:
        yield f"Can't tell which part matters: no removal moves the next token by more than twice its error ({tokens})."
        return
    parts = ablation.attrs["parts"]
    part = str(top["part"].item())
    name = {"components": part, "layers": f"layer {part}", "kinds": f"modules named {part}"}[parts]
    name = "modules outside of the layers" if name == "layer -1" else name
    yield (
        f"The adapter's part in {name} matters most: taking it out changes the prediction of the next token further "
        f"than taking out any other (Kullback-Leibler divergence, KL, {format_error(kl, error)} nat over {tokens}; 0 "
        "would be no change)."
    )
    # The largest one is behind itself by 0 with an error of 0.
    n_equal = int((ablation["behind"] <= 2 * ablation["behind_se"]).sum()) - 1
    if n_equal:
        others = f"One other {parts[:-1]} is" if n_equal == 1 else f"{n_equal} other {parts} are"
        yield f"{others} not significantly smaller (within twice the error of the difference)."
    if n > N_LARGEST:
        share = float(np.sort(ablation["kl"].values)[-N_LARGEST:].sum() / ablation["kl"].values.sum())
        yield (
            f"The {N_LARGEST} largest of the {n} {parts} hold {format_percent(share)} of the sum "
            f"({format_percent(N_LARGEST / n)} if all were equal)."
        )
    if explanation.measures is not None:
        yield prediction(explanation.measures)


def _directions(run: Run, explanation: Explanation) -> str:
    if explanation.directions is None:
        return f"Can't tell, since {explanation.reasons['directions']}."
    name = main_component(explanation)
    if name not in explanation.directions["component"]:
        return f"Can't tell for {name}, whose delta isn't kept as a factor."
    row = explanation.directions.sel(component=name)
    share, rank, p = float(row["first_share"]), int(row["rank"]), float(row["driver_p"])
    if not share > 0:
        return f"Can't tell, since what the adapter adds to {name} is 0, or not finite."
    why = "whose removal costs most" if explanation.measures is not None else "where it acts most"
    first = (
        f"What the adapter adds in {name}, {why}, lies along at most {rank} directions, its rank. The strongest one "
        f"holds {format_percent(share)} of it ({format_percent(1 / rank)} if all were equal; squared length, over "
        f"{over_tokens(row, explanation.directions.attrs['n_tokens'])})."
    )
    count, n_top = int(row["driver_count"]), int((row["token"] >= 0).sum())
    if not p <= LEVEL:
        return (
            f"{first} Can't tell which token drives this direction: the {n_top} tokens at which it is strongest are as "
            f"mixed as those of random directions (p = {format_number(p)})."
        )
    return (
        f"{first} This direction is driven by the token {_text_of(run, int(row['driver']))}: of the {n_top} places at "
        f"which it is strongest, {count} have this token ({format_percent(float(row['driver_share']))} of all places "
        f"do; p = {format_number(p)}, compared with random directions)."
    )


def _text_of(run: Run, token_id: int) -> str:
    if "text" not in run.tokens:
        return f"with id {token_id}"
    place = int(np.flatnonzero(run.tokens["token_id"].values == token_id)[0])
    return quoted([str(run.tokens["text"][place].item())])


def _words(explanation: Explanation) -> str:
    if explanation.lens is None:
        return f"Can't tell, since {explanation.reasons['lens']}."
    site = main_site(explanation.lens)
    (more, p_more, n_more), (less, p_less, n_less) = (
        top_words(explanation.lens, site, side) for side in ("promoted", "suppressed")
    )
    what = f"to the residual stream {site}" if site.startswith("after ") else f"in {site}"
    doubt = "Can't tell: the same change with random signs would move some token as far. For what it is worth: "
    return (
        f"{doubt if min(p_more, p_less) > LEVEL else ''}What the adapter adds {what}, on average, makes these next "
        f"tokens more likely: {more} ({n_more} tokens significantly, the first with p = {format_number(p_more)}); and "
        f"these less likely: {less} ({n_less} tokens, the first with p = {format_number(p_less)}). This reads what is "
        "added straight through the model's output layer, as if no layer came between; p compares it with the same "
        "change with random signs."
    )


def _ranks(explanation: Explanation) -> str:
    if explanation.directions is None:
        return f"Can't tell, since {explanation.reasons['directions']}."
    directions = explanation.directions.isel(component=(explanation.directions["n_99"] > 0).values)
    tokens = over_tokens(directions, directions.attrs["n_tokens"])
    n_zero = explanation.directions.sizes["component"] - directions.sizes["component"]
    if not directions.sizes["component"]:
        return f"Can't tell, since what the adapter adds is 0 or not finite on all of {tokens}."
    n_99, n_90, rank = (int(directions[name].sum()) for name in ("n_99", "n_90", "rank"))
    halves = directions["n_99_half"].sum("component", skipna=False)
    error = "too few tokens for an error"
    if np.isfinite(halves).all():
        error = f"{int(halves[0])} and {int(halves[1])} in two halves of the tokens"
    zero = f" {n_zero} components are left out, where it is 0 or not finite." if n_zero else ""
    return (
        f"Of the {rank} directions that the adapter has in all modules, {n_99} hold 99 % of what it adds ({error}) and "
        f"{n_90} hold 90 % (squared length, over {tokens}).{zero}"
    )
