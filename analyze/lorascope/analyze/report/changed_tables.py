"""Section with tables of what the adapter changes in the next token: tokens, choices, forms, themes and places."""

import xarray as xr

from lorascope.analyze.results.format import format_change, format_error, format_number, format_percent
from lorascope.stores.visible import one_line

from .changed import CHOICE, named_tokens, rows_of, significant
from .explain import Explanation
from .learned import LEVEL, quoted
from .markup import section, table, with_code
from .where_it_acts import sample_count

N_ROWS = 10
"""Most rows of a table, except that of tokens."""


def what_changed_section(explanation: Explanation) -> str:
    """Return the HTML section with tables of tokens, choices, forms, themes and places, or why they are unknown."""
    title, changes = "What changed", explanation.changes
    if changes is None:
        return section("changed", title, f"<p>Can't tell, since {with_code(explanation.reasons['changes'])}.</p>")
    places = f"{changes.attrs['n_tokens']} places (captured tokens) of {sample_count(changes.attrs['n_samples'])}"
    return section("changed", title, *(make(changes, places) for make in _TABLES))


def _tokens_table(changes: xr.DataTree, places: str) -> str:
    """Return an HTML table of the tokens that the page names."""
    rows = [
        (quoted([text]), format_percent(gain), format_percent(loss), _points(net, error), format_number(p), n)
        for text, gain, loss, net, error, p, n in rows_of(
            named_tokens(changes), ("text", "gain", "loss", "net", "net_se", "p", "n_samples")
        )
    ]
    caption = (
        f"Tokens that gain and lose most, of {changes['tokens'].sizes['token_id']} over {places}. Gain: share of KL"
        "(adapted || base), p log(p/q) of the token summed over places; loss: of KL(base || adapted), q log(q/p). "
        f"Net: gain less loss, ± standard error over samples; p by Holm's method, up to {LEVEL}. The stored gains hold "
        f"{format_percent(changes.attrs['kept_share'])} of the first sum."
    )
    return table(("token", "gain", "loss", "net", "p", "samples"), rows, caption=caption) if rows else ""


def _choices_table(changes: xr.DataTree, places: str) -> str:
    """Return an HTML table of the first choices that changed in most samples."""
    choices = changes["choices"].to_dataset().sortby("share", ascending=False)
    rows = [
        (
            quoted([base]),
            quoted([adapted]),
            format_percent(share),
            f"{count} of {of}",
            n,
            f"{quoted([after])} ({after_count} of {after_of})",
        )
        for share, n, base, adapted, count, of, after, after_count, after_of, _ in rows_of(
            choices, ("share", "n_samples", *CHOICE)
        )[:N_ROWS]
    ]
    caption = (
        "The most likely next token, where the adapter changes it. Share: of the summed KL. At how many places, of how "
        "many at which the base chooses that token; in how many samples; and the commonest text before, with both "
        f"counts. Over {places}."
    )
    columns = ("base chooses", "adapted model chooses", "share", "places", "samples", "mostly after")
    return table(columns, rows, n_names=2, caption=caption) if rows else ""


def _forms_table(changes: xr.DataTree, places: str) -> str:
    """Return an HTML table of the forms whose share changes significantly."""
    rows = [
        (form, format_percent(base), format_percent(adapted), _points(difference, error), format_number(p))
        for form, base, adapted, difference, error, p in rows_of(
            significant(changes["forms"].to_dataset()),
            ("form", "base_share", "adapted_share", "difference", "difference_se", "p"),
        )
    ]
    caption = (
        f"Forms of next tokens whose share changes, of {changes['forms'].sizes['form']}; shares of eight draws at each "
        "place, of letters and languages among words. ± standard error over samples; p by Holm's method, up to "
        f"{LEVEL}. Forms depend on each other: a frequent word that falls takes its letters with it."
    )
    return table(("form", "base", "adapted", "difference", "p"), rows, caption=caption) if rows else ""


def _themes_table(changes: xr.DataTree, places: str) -> str:
    """Return an HTML table of stable themes with their contexts."""
    rows = [
        (
            quoted([token for token in tokens if token]),
            " ⋯ ".join(one_line(context) for context in contexts if context),
            f"{format_percent(share)} ± {100 * error:.1f}",
            format_number(stability),
        )
        for tokens, contexts, share, error, stability in rows_of(
            changes["themes"].to_dataset(), ("tokens", "contexts", "share", "share_se", "stability")
        )
    ]
    caption = (
        "Themes: tokens that gain at the same places (non-negative factors of the gains), found in both halves of the "
        "samples; the text before five places where they gain most, an arrow, and the token that gains. Share: of the "
        "summed KL. Stability: cosine with the theme of a half."
    )
    return table(("theme", "strongest at", "share", "stability"), rows, n_names=2, caption=caption) if rows else ""


def _places_tables(changes: xr.DataTree, places: str) -> str:
    """Return HTML tables of KL by role, by the text before and by earlier word."""
    rows = [
        (what, name if node == "roles" else quoted([name]), format_error(kl, error), n, samples)
        for node, what in (("roles", "role"), ("previous", "text before"))
        for name, kl, error, n, samples in rows_of(
            changes[node].to_dataset(), (str(changes[node]["kl"].dims[0]), "kl", "kl_se", "n", "n_samples")
        )[:N_ROWS]
    ]
    caption = f"How much predictions change after which tokens: mean KL(adapted || base), over {places}."
    both = table(("by", "token", "KL (nat)", "places", "samples"), rows, n_names=2, caption=caption)
    words = [
        (quoted([word]), format_error(kl, error), format_number(without), format_number(p), n)
        for word, kl, error, without, p, n in rows_of(
            significant(changes["words"].to_dataset()), ("word", "kl", "kl_se", "kl_without", "p", "n_samples")
        )[:N_ROWS]
    ]
    caption = (
        "Words after which predictions change otherwise than in samples without them (Mann-Whitney's test of samples, "
        "among places of like role and position; p by Holm's method): they may trigger a habit, or stand in texts "
        "that do."
    )
    columns = ("earlier word", "KL after it (nat)", "KL without it (nat)", "p", "samples")
    return both + (table(columns, words, caption=caption) if words else "")


_TABLES = (_tokens_table, _choices_table, _forms_table, _themes_table, _places_tables)


def _points(share: float, error: float) -> str:
    """Return a difference of shares and its standard error in percentage points."""
    return format_change(100 * share, 100 * error)
