"""Section with tables of what the adapter changes in the next token: tokens, choices, forms, themes and places."""

import xarray as xr

from lorascope.analyze.results.format import format_change, format_error, format_number, format_percent
from lorascope.stores.visible import one_line

from .changed import LEAST_CHANGE, LEAST_FALL, LEAST_RATIO, named_tokens
from .explain import Explanation
from .markup import section, table_of, unknown
from .wording import LEVEL, quoted, rows_of, sample_count, significant

N_ROWS = 10
"""Most rows of a table of choices or places; others show all that is significant."""


def what_changed_section(explanation: Explanation) -> str:
    """Return the HTML section with tables of tokens, choices, forms, themes and places, or why they are unknown."""
    changes = explanation.changes
    if changes is None:
        return section("changed", "What changed", unknown(explanation.reasons["changes"]))
    n, samples = changes.attrs["n_tokens"], sample_count(changes.attrs["n_samples"])
    places = f"{n} places (captured tokens; a beginning that samples share counts once) of {samples}"
    tables = {title: make(changes, places) for title, make in _TABLES.items()}
    return section("changed", "What changed", *(f"<h3>{title}</h3>{html}" for title, html in tables.items() if html))


def _tokens_table(changes: xr.DataTree, places: str) -> str:
    """Return an HTML table of the tokens that the page names."""
    columns = {
        "token": lambda row: quoted(row.text),
        "net gain (%)": lambda row: _points(row.net, row.net_se),
        "p": lambda row: format_number(row.p),
        "samples": lambda row: row.n_samples,
    }
    caption = (
        f"The largest of {changes['tokens'].sizes['token_id']} over {places}. Net gain: share of KL(adapted || base), "
        "p log(p/q) of the token summed over places, less share of KL(base || adapted), q log(q/p); ± standard error "
        f"over samples; p of a t test by Holm's method, up to {LEVEL}. Of each place 20 gains are stored, "
        f"{format_percent(changes.attrs['kept_share'])} of the first sum (above 100 % where the rest is negative)."
    )
    return table_of(rows_of(named_tokens(changes)), columns, caption=caption)


def _choices_table(changes: xr.DataTree, places: str) -> str:
    """Return an HTML table of the changed first choices with the largest share of the KL."""
    columns = {
        "base and adapted model": lambda row: f"{quoted(row.base)} → {quoted(row.adapted)}",
        "share": lambda row: format_percent(row.share),
        "places": lambda row: f"{row.count} of {row.of}",
        "samples": lambda row: row.n_samples,
        "mostly after": lambda row: f"{quoted(row.after)} ({row.after_count} of {row.after_of})",
    }
    caption = (
        "The most likely next token, where the adapter changes it. Share: of the summed KL. At how many places, of how "
        "many at which the base chooses that token; in how many samples; and the commonest text before, with both "
        "counts."
    )
    choices = changes["choices"].to_dataset().sortby("share", ascending=False).isel(change=slice(N_ROWS))
    return table_of(rows_of(choices), columns, caption=caption)


def _forms_table(changes: xr.DataTree, places: str) -> str:
    """Return an HTML table of the forms whose share changes significantly, the largest change first."""
    columns = {
        "form": lambda row: row.form,
        "base": lambda row: format_percent(row.base_share),
        "adapted": lambda row: format_percent(row.adapted_share),
        "difference": lambda row: _points(row.difference, row.difference_se),
        "p": lambda row: format_number(row.p),
    }
    caption = (
        f"Forms of next tokens whose share changes, of {changes['forms'].sizes['form']}; shares of eight draws at each "
        "place, of letters and languages among words. ± standard error over samples; p by Holm's method, up to "
        f"{LEVEL}. Forms depend on each other: a frequent word that falls takes its letters along, languages share "
        f"words. So the opening names forms that change by {100 * LEAST_CHANGE:g} points: a letter only if it loses "
        f"{100 * LEAST_FALL:g} % of its share and no form loses more, the commonest language, and neither special "
        "tokens nor all words."
    )
    forms = significant(changes["forms"].to_dataset())
    return table_of(rows_of(forms.sortby(abs(forms["difference"]), ascending=False)), columns, caption=caption)


def _themes_table(changes: xr.DataTree, places: str) -> str:
    """Return an HTML table of stable themes with their contexts."""
    columns = {
        "theme": lambda row: quoted(*filter(None, row.tokens)),
        "strongest at": lambda row: " ⋯ ".join(map(one_line, filter(None, row.contexts))),
        "share": lambda row: f"{format_percent(row.share)} ± {100 * row.share_se:.1f}",
        "stability": lambda row: format_number(row.stability),
    }
    caption = (
        "Themes: tokens that gain at the same places (non-negative factors of the gains), found in both halves of the "
        "samples; the text before five places where they gain most, an arrow, and the token that gains. Share: of the "
        "summed KL. Stability: cosine with the theme of a half."
    )
    return table_of(rows_of(changes["themes"].to_dataset()), columns, n_names=2, caption=caption)


def _places_table(changes: xr.DataTree, places: str) -> str:
    """Return an HTML table of KL by role and by the text before."""
    columns = {
        "after": lambda row: quoted(row.previous) if hasattr(row, "previous") else f"tokens of the {row.role}",
        "KL (nat)": lambda row: format_error(row.kl, row.kl_se),
        "places": lambda row: row.n,
        "samples": lambda row: row.n_samples,
    }
    rows = [row for node in ("roles", "previous") for row in rows_of(changes[node].to_dataset())[:N_ROWS]]
    caption = f"How much predictions change: mean KL(adapted || base), over {places}."
    return table_of(rows, columns, caption=caption)


def _words_table(changes: xr.DataTree, places: str) -> str:
    """Return an HTML table of KL by the earlier words that the page names."""
    columns = {
        "earlier word": lambda row: quoted(row.word),
        "KL after it (nat)": lambda row: format_error(row.kl, row.kl_se),
        "KL without it (nat)": lambda row: format_number(row.kl_without),
        "p": lambda row: format_number(row.p),
        "samples": lambda row: row.n_samples,
    }
    caption = (
        "Words after which predictions change otherwise than in samples without them (Mann-Whitney's test of samples, "
        "among places of like role and position; p by Holm's method): they may trigger a habit, or stand in texts "
        f"that do. The opening names at most two, from a ratio of {LEAST_RATIO:g} on."
    )
    return table_of(rows_of(significant(changes["words"].to_dataset())), columns, caption=caption)


_TABLES = {
    "Tokens that gain and lose": _tokens_table,
    "First choices": _choices_table,
    "Forms": _forms_table,
    "Tokens that gain together": _themes_table,
    "Places": _places_table,
    "Words before": _words_table,
}
"""Heading -> function that makes the HTML of the table below it, which is empty if nothing is significant."""


def _points(share: float, error: float) -> str:
    """Return a difference of shares and its standard error in percentage points."""
    return format_change(100 * share, 100 * error)
