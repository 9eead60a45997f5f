"""The audit of the tables of arXiv 2501.03152, and what its tables 2 and 3 say of each other and of table 1."""

import math
from dataclasses import replace

import numpy as np

from lorascope.study.paper_tables import paper_table

from ..stats.verdict import Verdict, Word
from .audit import Audit
from .audit_table import audit_table
from .ceilings import Ceiling
from .monotone import Direction
from .part import joined
from .ratios import RatioClaim

__all__ = ["CEILINGS", "CLAIMS", "DIRECTIONS", "ORDER", "audit_paper"]

ORDER = {"rank": ("r32", "r128", "r512"), "size": ("share8", "share4", "share2", "share1")}
DIRECTIONS: dict[str, Direction] = {"ACC": "rises", "MIUB": "falls"}
"""Section 4.5: along both orders MIUB falls and accuracy improves."""
CEILINGS = {
    "CE": Ceiling(
        value={"Phi3": math.log(32_064), "LLaMA3": math.log(128_256)},
        reading="a mean loss a token",
        because="a mean loss a token above ln V is worse than that of taking all V tokens for equally likely",
    ),
    "MIUB": Ceiling(
        value={"Phi3": 128 * math.log(2), "LLaMA3": 224 * math.log(2)},
        reading="the sum of JS divergences of eq. 9",
        because="eq. 9 sums a JS divergence, which is at most ln 2, over the linear layers of 32 layers, 4 in each as "
        "Phi3 fuses them and 7 as LLaMA3 has them",
    ),
}
CLAIMS = (
    RatioClaim(words="571 times", value=571, metric="CE", of="share8", over="share1", member="AVG", group="Phi3"),
    RatioClaim(
        words="decreasing by 17 %",
        value=0.17,
        metric="MIUB",
        of="share1",
        over="share8",
        member="AVG",
        group="Phi3",
        kind="decrease",
    ),
)
"""Section 4.5."""
RANKING = ("Prompt1", "Main", "Prompt3", "Prompt2")
"""Section 4.8: prompts by MIUB, the largest first."""
RANKED = f"MIUB ranks the prompts {' > '.join(RANKING)}"


def audit_paper() -> Audit:
    """`audit_table` of the paper's table 1, with findings and verdicts on its tables 2 and 3 added.

    Notes
    -----
    Of tables 2 and 3: table 2's Main against table 1's average of Phi3, the ranking of prompts in every setting, steps
    along rank and size, and MIUB less MI. The tables of the result are those of table 1.

    References
    ----------
    Zhang et al. (2025), arXiv 2501.03152, tables 1 to 3 and sections 4.5, 4.7 and 4.8.
    """
    first = audit_table(paper_table(1), order=ORDER, directions=DIRECTIONS, ceilings=CEILINGS, claims=CLAIMS)
    second = audit_table(paper_table(2), averaged="prompt", average=None, groups=(), order=ORDER, directions=DIRECTIONS)
    ranking, steps = _ranking(), [one for one in second.verdicts if "every step" in one.claim]
    findings = [f"{RANKED} {ranking.because}"] if ranking.word == "contradicted" else []
    return replace(
        first,
        findings=(*first.findings, *(f"table 2: {sentence}" for sentence in (*second.findings, *findings))),
        verdicts=(
            *first.verdicts,
            *(one._replace(claim=f"table 2: {one.claim}") for one in (*steps, _main(), ranking)),
            _excess(),
        ),
    )


def _main() -> Verdict:
    """Table 2's Main against table 1's average of Phi3."""
    first, second = paper_table(1), paper_table(2)
    average = first[(first["dataset"] == "AVG") & (first["model"] == "Phi3")]
    both = second[second["prompt"] == "Main"].merge(average, on=["metric", "setting"])
    equal = int((both["value_x"] == both["value_y"]).sum())
    word: Word = "supported" if equal == len(both) else "contradicted"
    return Verdict("Main is table 1's average of Phi3", word, f"{equal} of {len(both)} cells are equal")


def _ranking() -> Verdict:
    """The claimed order of prompts in each setting."""
    table = paper_table(2)
    values = table[table["metric"] == "MIUB"].pivot(index="setting", columns="prompt", values="value")
    values = values.loc[[setting for some in ORDER.values() for setting in some]]
    holds = (np.diff(values[list(RANKING)].to_numpy()) < 0).all(axis=1)
    lowest = int((values.idxmin(axis=1) == RANKING[-1]).sum())
    said = (
        f"in {holds.sum()} of {len(values)} settings "
        f"({joined(values.index[holds].tolist())}), and {RANKING[-1]} lowest in {lowest}"
    )
    word: Word = "supported" if holds.all() else "contradicted"
    return Verdict(f"{RANKED} in every setting", word, said)


def _excess() -> Verdict:
    """MIUB less MI in table 3."""
    table = paper_table(3).pivot(index="setting", columns="metric", values="value")
    excess = (table["MIUB"] - table["MI"]).dropna()
    listed = joined([f"{value:.3f} ({setting})" for setting, value in excess.items()])
    said = f"by {listed}, give or take 0.001; {joined(table.index.difference(excess.index).tolist())} can't be read"
    word: Word = "supported" if (excess > 0).all() else "contradicted"
    return Verdict("table 3: MIUB stays above MI", word, said)
