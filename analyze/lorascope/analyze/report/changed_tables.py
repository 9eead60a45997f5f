"""Section with tables of what the adapter changes in the next token: tokens, choices, forms, themes and places."""

import xarray as xr

from lorascope.analyze.results.format import format_change, format_error, format_number, format_percent
from lorascope.stores.visible import one_line

from .changed import LEAST_CHANGE, LEAST_FALL, LEAST_RATIO, named_tokens
from .explain import Explanation
from .markup import section, table, table_of, unknown
from .wording import LEVEL, quoted, rows_of, sample_count, significant

N_ROWS = 10
"""Most rows of a table of choices or places; others show all that is significant."""


def what_changed_section(explanation: Explanation) -> str:
    """Return the HTML section with tables of tokens, choices, forms, themes and places, or why they are unknown."""
    changes = explanation.changes
    if changes is None:
        return section("changed", "What changed", unknown(explanation.reasons["changes"]))
    places = f"{changes.attrs['n_tokens']} places (captured tokens) of {sample_count(changes.attrs['n_samples'])}"
    return section("changed", "What changed", *(make(changes, places) for make in _TABLES))


def _tokens_table(changes: xr.DataTree, places: str) -> str:
    """Return an HTML table of the tokens that the page names."""
    columns = {
        "token": lambda row: quoted(row.text),
        "gain": lambda row: format_percent(row.gain),
        "loss": lambda row: format_percent(row.loss),
        "net": lambda row: _points(row.net, row.net_se),
        "p": lambda row: format_number(row.p),
        "samples": lambda row: row.n_samples,
    }
    caption = (
        f"Tokens that gain and lose most, of {changes['tokens'].sizes['token_id']} over {places}. Gain: share of KL"
        "(adapted || base), p log(p/q) of the token summed over places; loss: of KL(base || adapted), q log(q/p). "
        f"Net: gain less loss, ± standard error over samples; p by Holm's method, up to {LEVEL}. The stored gains hold "
        f"{format_percent(changes.attrs['kept_share'])} of the first sum."
    )
    return table_of(rows_of(named_tokens(changes)), columns, caption=caption)


def _choices_table(changes: xr.DataTree, places: str) -> str:
    """Return an HTML table of the changed first choices with the largest share of the KL."""
    columns = {
        "base chooses": lambda row: quoted(row.base),
        "adapted model chooses": lambda row: quoted(row.adapted),
        "share": lambda row: format_percent(row.share),
        "places": lambda row: f"{row.count} of {row.of}",
        "samples": lambda row: row.n_samples,
        "mostly after": lambda row: f"{quoted(row.after)} ({row.after_count} of {row.after_of})",
    }
    caption = (
        "The most likely next token, where the adapter changes it. Share: of the summed KL. At how many places, of how "
        "many at which the base chooses that token; in how many samples; and the commonest text before, with both "
        f"counts. Over {places}."
    )
    choices = changes["choices"].to_dataset().sortby("share", ascending=False).isel(change=slice(N_ROWS))
    return table_of(rows_of(choices), columns, n_names=2, caption=caption)


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
        f"{LEVEL}. Forms depend on each other: a frequent word that falls takes its letters with it. So the opening "
        f"names forms that change by {100 * LEAST_CHANGE:g} points, and at most one letter, which loses "
        f"{100 * LEAST_FALL:g} % of its share where no language falls."
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


def _places_tables(changes: xr.DataTree, places: str) -> str:
    """Return HTML tables of KL by role, by the text before and by earlier word."""
    rows = [
        (
            what,
            row.role if what == "role" else quoted(row.previous),
            format_error(row.kl, row.kl_se),
            row.n,
            row.n_samples,
        )
        for node, what in (("roles", "role"), ("previous", "text before"))
        for row in rows_of(changes[node].to_dataset())[:N_ROWS]
    ]
    caption = f"How much predictions change after which tokens: mean KL(adapted || base), over {places}."
    both = table(("by", "token", "KL (nat)", "places", "samples"), rows, n_names=2, caption=caption)
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
    return both + table_of(rows_of(significant(changes["words"].to_dataset())), columns, caption=caption)


_TABLES = (_tokens_table, _choices_table, _forms_table, _themes_table, _places_tables)


def _points(share: float, error: float) -> str:
    """Return a difference of shares and its standard error in percentage points."""
    return format_change(100 * share, 100 * error)
