"""A paragraph on what an adapter did and learned: each sentence with its error or null, or "can't tell" and why."""

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from lorascope.analyze.directions.drivers import N_DRAWS
from lorascope.analyze.measuring.sources import captured_measure
from lorascope.analyze.results.format import format_error, format_number, format_percent
from lorascope.analyze.results.scores import scores
from lorascope.analyze.results.weights import token_weights, weighted_mean
from lorascope.stores import Run
from lorascope.stores.visible import one_line

from .explain import Explanation
from .helped import choices_each, helped
from .main_places import effect, listed
from .matters import prediction

LEVEL = 0.05
"""Largest p with which a sentence claims something; above it the sentence says that it can't tell."""
NO_BREAK = "\N{NO-BREAK SPACE}"
N_WORDS = 8
"""Most tokens that a sentence names."""
MOST_EQUAL = 3
"""Most parts that are named as not significantly behind the largest; more are counted."""
KL_SCALE = "0 is no change, 0.693 halves the probability of what was predicted, on average"
"""Two values of a KL in nats, for scale; the average is the geometric mean."""


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
        "Does it help?": helped(scores(run), choices_each(run)),
        "Where does it act?": effect(explanation.qualified),
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


def _samples(n: int) -> str:
    return "one sample, which gives no error" if n == 1 else f"{n} samples"


def _matters(run: Run, explanation: Explanation) -> Iterator[str]:
    moved = captured_measure(run, "kl", explanation.qualified.attrs["adapter"])
    known = np.empty(0, int) if moved is None else np.flatnonzero(np.isfinite(moved.values))
    if moved is not None and len(known):
        mean = format_number(weighted_mean(moved.values[known], token_weights(run)[known]))
        yield (
            "The whole adapter changes the model's predictions of the next token (Kullback-Leibler divergence, KL, "
            f"{mean} nat over {len(known)} tokens; {KL_SCALE})."
        )
    ablation = explanation.ablation
    if ablation is None:
        yield f"Can't tell which part matters, since {explanation.reasons['ablation']}."
        return
    top = int(ablation["kl"].values.argmax())
    kl, error, parts = float(ablation["kl"][top]), float(ablation["kl_se"][top]), ablation.attrs["parts"]
    tokens = f"{ablation.attrs['n_tokens']} tokens of {_samples(ablation.attrs['n_samples'])}"
    if not kl > 2 * error:
        yield f"Can't tell which part matters: no removal moves the next token by more than twice its error ({tokens})."
        return
    prefix = {"components": "", "layers": "layer ", "kinds": "modules named "}[parts]
    names = [f"{prefix}{part}".replace("layer -1", "modules outside of the layers") for part in ablation["part"].values]
    yield (
        f"The adapter's part in {names[top]} matters most: without it the prediction of the next token changes most "
        f"(Kullback-Leibler divergence, KL, {format_error(kl, error)} nat over {tokens}; {KL_SCALE})."
    )
    is_equal = (ablation["behind"] <= 2 * ablation["behind_se"]).values
    if equal := [name for place, name in enumerate(names) if is_equal[place] and place != top]:
        others = listed(equal) if len(equal) <= MOST_EQUAL else f"{len(equal)} other {parts}"
        yield f"Not significantly behind: {others} (by less than twice the error of the difference)."
    yield (
        "This can differ from where it acts, which is about each module's own output. A change of predictions needn't "
        "be for the worse."
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
    left_out = " Each sample's first token, where it can be far larger, is left out."
    first = (
        f"What the adapter adds in {name}, {why}, is a mix of at most {rank} directions, its rank. The strongest "
        f"holds {format_percent(share)} of it ({format_percent(1 / rank)} if all were equal; squared length over "
        f"{explanation.directions.attrs['n_tokens']} tokens)."
        f"{left_out if explanation.directions.attrs['tokens'] == 'from:1' else ''}"
    )
    count, n_top = int(row["driver_count"]), int((row["token"] >= 0).sum())
    if not p <= LEVEL:
        return (
            f"{first} Can't tell at which token this direction is strongest: its {n_top} strongest places are as mixed "
            f"as those of random directions (p = {format_number(p)})."
        )
    return (
        f"{first} This direction is strongest at the token {_text_of(run, int(row['driver']))} ({count} of its {n_top} "
        f"strongest places; {format_percent(float(row['driver_share']))} of all). None of {N_DRAWS} random directions "
        f"is as much about one token (p = {format_number(p)}, the smallest possible)."
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
    (more, _, n_more), (less, _, n_less) = (
        top_words(explanation.lens, site, side) for side in ("promoted", "suppressed")
    )
    null = f"compared with {explanation.lens.attrs['n_draws']} random changes as large"
    what, why = f"in {site}", f" (the largest average of all {listed(np.unique(explanation.lens['kind']).tolist())})"
    if site.startswith("after "):
        what, why = f"to the residual stream {site}", ""
    if not n_more + n_less:
        return f"Can't tell: no token stands out in what the adapter adds {what} on average ({null})."
    first = [("none", "the first")[n] if n < 2 else f"the first {min(n, N_WORDS)}" for n in (n_more, n_less)]
    return (
        f"A rough look: {'other modules can outweigh' if why else 'single positions can differ from'} this average "
        "over all captured positions, so a token pushed away may still be predicted. What it adds "
        f"{what}{why} pushes the next token towards {more}; and away from {less}. Beyond chance are {first[0]} of the "
        f"former and {first[1]} of the latter (p up to {LEVEL}, {null})."
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
    n, halves = directions.sizes["component"], directions["n_99_half"].sum("component", skipna=False)
    error = "too few tokens for an error"
    if np.isfinite(halves).all():
        error = f"{int(halves[0])} and {int(halves[1])} in halves of the tokens"
    zero = f" {n_zero} modules are left out, where what is added is 0 or not finite." if n_zero else ""
    return (
        f"On average {round(n_99 / n, 1):g} of a module's {round(rank / n, 1):g} directions hold 99 % of what is added "
        f"({n_99} of {rank} in {n} modules; {error}). For 90 %, {n_90} do (squared length over {tokens}).{zero} "
        "`lorascope adapter --truncate` writes a smaller adapter, chosen by its weights, and can measure the loss."
    )
