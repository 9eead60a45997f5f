"""The paper's seven claims on a study, each with a word, a number, its interval and what it rests on."""

from collections.abc import Sequence

import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.stats.summary import Verdict

from .cells import study_cells
from .findings import Finding
from .information_claims import information_claims
from .prompt_claims import length_claims, prompt_claims, tuning_claims
from .size_claims import size_claims, text_claims
from .sweeps import sweeps_of
from .units import UnitResult

__all__ = ["CLAIMS", "claims_table", "paper_claims"]

CLAIMS = {
    0: "Fine-tuning changes what the model answers (no claim of the paper, but what all others stand on)",
    1: "MIUB falls as rank grows, a little, and as the model grows, much (section 4.5)",
    2: "MIUB falls steadily, and ever less, along model size, and far less than CE does (4.5)",
    3: "CE rises with rank although accuracy does too; MIUB follows accuracy more closely (4.5)",
    4: "On texts MIUB falls with model size, and more evenly than PPL (4.5, figure 2)",
    5: "With the items' length accuracy rises and MIUB falls (4.6, figure 3)",
    6: "MIUB lies above mutual information, nearly coincides with it, and both fall (4.7, table 3)",
    7: "Under every prompt MIUB falls; it is highest under prompt1, then main, prompt3, prompt2 (4.8, table 2)",
}
"""Number -> the paper's claim, as `paper_claims` counts them."""


def paper_claims(units: Sequence[UnitResult], compared: Sequence[Verdict] = ()) -> list[Finding]:
    """What this study says of the paper's claims 1 to 7, and, numbered 0, of fine-tuning itself.

    Each model is looked at for itself, and each task where tasks share data sets.

    Parameters
    ----------
    units
        What `read_units` returns.
    compared
        Verdicts of `compare_metrics` over all models; they count for claim 3.

    Notes
    -----
    Differences between settings are of the same items, which are drawn with replacement, by data set, 1000 times: the
    95 % interval of a number is that of another draw of items, for these very adapters. A claim is `supported` where
    it leaves 0 out on the claim's side, and `contradicted` where it does on the other. How another adapter of the
    setting would differ is what seeds say, in claims of their own: with one seed nothing is known of it.
    """
    cells = study_cells(units)
    found: list[Finding] = []
    for sweeps in sweeps_of(units, cells):
        if (sweeps.layout.cells["first_prompt"] & ~sweeps.layout.cells["is_text"]).any():
            for claims in (tuning_claims, size_claims, length_claims, prompt_claims):
                found += claims(sweeps)
        found += [*information_claims(sweeps), *text_claims(sweeps)]
    n_items = int(cells[cells["first_prompt"] & ~cells["is_text"]]["n_scored"].sum())
    found += [Finding(3, one, n_items=n_items) for one in compared]
    return sorted(found, key=lambda one: one.number)


def claims_table(findings: Sequence[Finding]) -> pd.DataFrame:
    """A claim a row: `number`, `claim`, `verdict`, `because`, `value`, `low`, `high`, `unit`, `n_items`, `n_seeds`."""
    columns = ["number", "claim", "verdict", "because", "value", "low", "high", "unit", "n_items", "n_seeds"]
    rows = [(one.number, one.verdict.claim, one.verdict.word, one.verdict.because, *one[2:]) for one in findings]
    return pd.DataFrame(rows, columns=columns)
