from collections.abc import Callable

import numpy as np
import pandas as pd

from lorascope.analyze.audit.grid import Grid
from lorascope.analyze.audit.hidden import HiddenWeights, RepairRow, hidden_weights
from lorascope.analyze.audit.weight_findings import weight_findings, weight_verdicts


def test_sentences_on_the_paper(paper: Grid) -> None:
    assert weight_findings(hidden_weights(paper)) == (
        "Phi3: one vector of weights gives the averages of CE, MIUB: the best weights miss 14 averages by up to 0.597 "
        "times what rounding allows; ARCE 0.1010 to 0.1114, ARCC 0.04877 to 0.05825, Hel 0.2947 to 0.2965, PIQA 0.3019 "
        "to 0.3038, Win 0.2416 to 0.2421",
        "LLaMA3: no weights give the averages of CE, MIUB: the best weights miss 14 averages by up to 36.8 times what "
        "rounding allows; with ARCE CE of share4 moved to share2 they are ARCE 0.09109 to 0.09570, ARCC 0.04619 to "
        "0.05082, Hel 0.3742 to 0.3749, PIQA 0.2735 to 0.2739, Win 0.2091 to 0.2104",
        "LLaMA3 ARCE: averages of ACC, CE fit if what is printed under share4 (0.901, 11.594) belongs under share2 "
        "(printed: 0.894, 13.399); share4 is then 0.2120 to 0.2220 (ACC), 13.63 to 13.66 (CE)",
    )


def test_verdicts_on_the_paper(paper: Grid) -> None:
    found = weight_verdicts(hidden_weights(paper), "AVG")
    assert [(one.word, one.claim) for one in found] == [
        ("supported", "one vector of weights gives AVG of CE, MIUB of Phi3"),
        ("contradicted", "one vector of weights gives AVG of CE, MIUB of LLaMA3"),
    ]
    assert found[1].because == "the best weights miss 14 averages by up to 36.8 times what rounding allows"


def test_plain_means_make_no_sentences(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    found = hidden_weights(lay(make(np.random.default_rng(0).uniform(size=(2, 2, 5, 3)))))
    assert weight_findings(found) == weight_verdicts(found, "AVG") == ()


def test_too_few_averages_tell_nothing(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    table = make(np.random.default_rng(0).uniform(0, 100, (1, 1, 2, 4)), [0.4, 0.3, 0.2, 0.1])
    found = hidden_weights(lay(table.assign(model="")))
    (verdict,) = weight_verdicts(found, "AVG")
    assert verdict.word == "not identified"
    assert verdict.claim == "one vector of weights gives AVG of m0"
    assert verdict.because.endswith("2 different averages of 4 members can't tell")
    assert weight_findings(found) == ()


def test_an_average_that_no_slip_explains(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    table = make(np.random.default_rng(3).uniform(0, 100, (1, 2, 8, 4)), [0.4, 0.3, 0.2, 0.1])
    table.loc[(table["setting"] == "s3") & (table["dataset"] == "AVG") & (table["metric"] == "m1"), "value"] += 70
    *_, sentence = weight_findings(hidden_weights(lay(table)))
    assert sentence == "g0: the other averages of m0, m1 fit without m1 s3"


def test_slips_that_explain_more_metrics_come_first() -> None:
    one = RepairRow("g", "m0", "swap", "d0", "m0", "s0", "s1", 1.0, 2.0, np.nan, np.nan, 0.5)
    two = [one._replace(member="d1", metric=metric) for metric in ("m0", "m1")]
    assert weight_findings(HiddenWeights([], [], [], [one, *two])) == (
        "g d1: averages of m0, m1 fit if s0 (1, 1) and s1 (2, 2) are swapped",
        "g d0: averages of m0 fit if s0 (1) and s1 (2) are swapped",
    )


def test_many_slips_are_counted(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    table = make(np.tile([0.52, 0.52, 0.53], (1, 1, 5, 1))).assign(model="")
    table.loc[table["setting"] == "s1", "value"] = [0.50, 0.50, 0.51, 0.52]  # one and two thirds of a unit too high
    *slips, rest = weight_findings(hidden_weights(lay(table)))
    assert slips[0] == "d0: averages of m0 fit if s0 (0.52) and s1 (0.5) are swapped"
    assert len(slips) == 3
    assert rest == "other slips that would explain averages: 9"  # any of three members with any of four settings
