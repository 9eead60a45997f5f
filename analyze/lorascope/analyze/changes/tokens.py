"""Tokens that an adapter makes likelier and less likely, and first choices that it changes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from jaxtyping import Float64, Int64

from lorascope.analyze.results.holm import holm
from lorascope.analyze.results.weights import ratio, ratio_error, t_test

from .places import Places

MIN_SAMPLES = 3
"""Fewest samples in which a token, form or word occurs that is tested."""
BLOCK = 1024
"""Number of tokens whose sums by sample are in memory at once."""
SIDES = {"gain": "kl_adapted_base", "loss": "kl"}
"""Side of the change -> the KL divergence that its values over all tokens add up to."""


def frequent_tokens(places: Places) -> tuple[Int64[np.ndarray, " id"], Int64[np.ndarray, " id"]]:
    """Return ids that gain or lose in at least `MIN_SAMPLES` samples (in all if there are fewer), and in how many."""
    pairs = []
    for side in SIDES:
        tokens = places.values[f"{side}_token"].astype(np.int64)
        pairs.append((tokens * places.n_samples + places.sample[:, None])[tokens >= 0])
    ids, counts = np.unique(np.unique(np.concatenate(pairs)) // places.n_samples, return_counts=True)
    is_tested = counts >= min(MIN_SAMPLES, places.n_samples)
    return ids[is_tested], counts[is_tested]


def token_sums(places: Places, name: str, ids: np.ndarray, rows: np.ndarray) -> Any:
    """Return weighted sums by each place's row and by ascending id, sparse (row, id); other ids don't count.

    They are of the values `gain` or `loss` in nats, or count the draws `adapted_draw` or `base_draw`.
    """
    from scipy import sparse  # type: ignore[import-untyped]

    tokens, values = (
        (places.values[f"{name}_token"], places.values[name]) if name in SIDES else (places.values[name], 1)
    )
    weighted, is_counted = np.broadcast_to(places.weight[:, None] * values, tokens.shape), np.isin(tokens, ids)
    cells = np.broadcast_to(rows[:, None], tokens.shape)[is_counted], np.searchsorted(ids, tokens[is_counted])
    return sparse.csr_array((weighted[is_counted], cells), shape=(rows.max() + 1, len(ids)))


def difference(ratios: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the first ratio and its residuals, less those of the second (the control's) if there is one."""
    first, *rest = ratios
    return (first[0] - rest[0][0], first[1] - rest[0][1]) if rest else first


def kl_shares(
    every: Sequence[Places], side: str, sums: Sequence[Float64[np.ndarray, "sample estimate"]]
) -> tuple[Float64[np.ndarray, " estimate"], Float64[np.ndarray, "sample estimate"]]:
    """Return sums of gains or losses as shares of the summed KL, and residuals; the control's are subtracted."""
    totals = (places.sums(places.values[SIDES[side]])[:, None] for places in every)
    return difference([ratio(*pair) for pair in zip(sums, totals, strict=True)])


def token_shares(every: Sequence[Places], texts: np.ndarray) -> pd.DataFrame:
    """Return tokens by falling |net|: the shares of the summed KL that they gain and lose, errors and p.

    `every` is the run's places, then the control's if there is one, whose shares are subtracted; `texts` are by id.
    """
    ids, n_samples = frequent_tokens(every[0])
    sums = {side: [token_sums(places, side, ids, places.sample).tocsc() for places in every] for side in SIDES}
    blocks = []
    for start in range(0, max(len(ids), 1), BLOCK):
        part = slice(start, start + BLOCK)
        shares = {side: kl_shares(every, side, [own[:, part].toarray() for own in sums[side]]) for side in SIDES}
        shares["net"] = difference([shares["gain"], shares["loss"]])
        columns = {name: {"": value, "_se": ratio_error(residual)} for name, (value, residual) in shares.items()}
        blocks.append(pd.DataFrame({name + end: own for name, both in columns.items() for end, own in both.items()}))
    table = pd.concat(blocks, ignore_index=True)
    p = holm(t_test(table["net"].to_numpy(), table["net_se"].to_numpy(), every[0].n_samples))
    table = pd.DataFrame({"token_id": ids, "text": texts[ids]}).join(table).assign(p=p, n_samples=n_samples)
    return table.sort_values("net", key=lambda net: -net.abs(), kind="stable")


def changed_choices(every: Sequence[Places], texts: np.ndarray, before: np.ndarray) -> pd.DataFrame:
    """Return first choices that changed, by falling number of samples; `every` and `texts` as for `token_shares`.

    `count` is the number of places, `of` that of places with this first choice of the base; `share` is that of the
    summed KL(P || Q) at places of the change; `after` is the commonest of the texts `before` these (of equal ones the
    first in the run), `after_count` and `after_of` are `count` and `of` after it, and `after_changed` is the number of
    places among `after_of` with any other first choice of the adapted model. A change that the control makes too isn't
    counted.
    """
    base, adapted = (every[0].values[f"{name}_choice"] for name in ("base", "adapted"))
    is_changed = base != adapted
    for control in every[1:]:
        is_changed = is_changed & (control.values["adapted_choice"] != adapted)
    kl = every[0].values["kl_adapted_base"] * every[0].weight
    frame = pd.DataFrame({"base": base, "adapted": adapted, "after": before, "sample": every[0].sample})
    frame = frame.assign(share=kl / kl.sum(), of=frame.groupby("base")["sample"].transform("size"))
    alike = frame.assign(is_changed=is_changed).groupby(["base", "after"])["is_changed"]
    frame = frame.assign(after_of=alike.transform("size"), after_changed=alike.transform("sum"))[is_changed]
    frame = frame.assign(after_count=frame.groupby(["base", "adapted", "after"])["sample"].transform("size"))
    changes = frame.groupby(["base", "adapted"], as_index=False)
    commonest = frame.loc[changes["after_count"].idxmax()["after_count"]].drop(columns=["sample", "share"])
    table = changes.agg(count=("sample", "size"), n_samples=("sample", "nunique"), share=("share", "sum"))
    table = table.merge(commonest).sort_values(["n_samples", "count"], ascending=False, kind="stable")
    return table.assign(base=texts[table["base"]], adapted=texts[table["adapted"]])
