import pytest

from lorascope.analyze.audit import paper as audit_of_paper
from lorascope.analyze.audit.audit import Audit
from lorascope.analyze.audit.paper import audit_paper
from lorascope.study.paper_tables import paper_table


@pytest.fixture(scope="module")
def audit() -> Audit:
    return audit_paper()


def test_every_part_speaks(audit: Audit) -> None:
    assert len(audit.averages) == 42
    assert (~audit.averages["within_rounding"]).sum() == 29
    assert len(audit.weights) == 14
    assert len(audit.ranges) == 25
    assert len(audit.implied) == 20
    assert audit.repairs["metric"].tolist() == ["ACC", "CE"]
    assert len(audit.duplicates) == 1
    steps = audit.steps[~audit.steps["is_average"]]
    assert len(steps) == 100
    assert (steps["outcome"] != "as claimed").sum() == 4 + 9 + 10
    assert audit.ceilings["n_above"].tolist() == [8, 19, 35, 35]
    assert audit.ratios.loc[audit.ratios["stated"], "possible"].tolist() == [True, True]
    assert audit.decimals.set_index(["metric", "kind"])["decimals"].to_dict() == {
        (metric, kind): decimals
        for metric, decimals in (("ACC", 3), ("CE", 3), ("MIUB", 1))
        for kind in ("member", "average")
    }
    assert audit.notes == ()
    assert "arXiv 2501.03152, table 1" in audit.provenance["settings"]["source"]


def test_tables_2_and_3(audit: Audit) -> None:
    found = {one.claim: (one.word, one.because) for one in audit.verdicts if one.claim.startswith("table ")}
    assert found == {
        "table 2: ACC rises at every step of rank": ("contradicted", "3 of 8 steps fall, 1 level"),
        "table 2: MIUB falls at every step of rank": ("supported", "0 of 8 steps rise"),
        "table 2: ACC rises at every step of size": ("contradicted", "3 of 12 steps fall"),
        "table 2: MIUB falls at every step of size": ("supported", "0 of 12 steps rise"),
        "table 2: Main is table 1's average of Phi3": ("supported", "14 of 14 cells are equal"),
        "table 2: MIUB ranks the prompts Prompt1 > Main > Prompt3 > Prompt2 in every setting": (
            "contradicted",
            "in 4 of 7 settings (r32, r128, share2, share1), and Prompt2 lowest in 7",
        ),
        "table 3: MIUB stays above MI": (
            "supported",
            "by 0.001 (r32), 0.003 (r512), 0.108 (share8), give or take 0.001; share1 can't be read",
        ),
    }
    assert audit.findings[-1] == (
        "table 2: MIUB ranks the prompts Prompt1 > Main > Prompt3 > Prompt2 in 4 of 7 settings (r32, r128, share2, "
        "share1), and Prompt2 lowest in 7"
    )
    assert sum(sentence.startswith("table 2: ") for sentence in audit.findings) == 3


def test_findings_are_counted_once(audit: Audit) -> None:
    assert len(audit.findings) == len(set(audit.findings)) == 15
    assert len(audit.verdicts) == len({one.claim for one in audit.verdicts}) == 19
    claims = [one.claim for one in audit.verdicts if "ceiling" in one.claim]
    assert claims == [
        "CE, if it is a mean loss a token, stays within its ceiling",
        "MIUB, if it is the sum of JS divergences of eq. 9, stays within its ceiling",
    ]
    assert sum(one.word == "contradicted" for one in audit.verdicts) == 11


def test_tables_that_agree_make_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(number: int) -> object:
        table = paper_table(number)
        if number == 2:
            rank = {"Prompt1": 4, "Main": 3, "Prompt3": 2, "Prompt2": 1}
            table.loc[table["metric"] == "MIUB", "value"] += 1000.0 * table["prompt"].map(rank)
        if number == 3:
            table.loc[table["metric"] == "MI", "value"] += 1
        return table

    monkeypatch.setattr(audit_of_paper, "paper_table", changed)
    found = {one.claim: (one.word, one.because) for one in audit_paper().verdicts}
    assert found["table 2: Main is table 1's average of Phi3"] == ("contradicted", "7 of 14 cells are equal")
    claim = "table 2: MIUB ranks the prompts Prompt1 > Main > Prompt3 > Prompt2 in every setting"
    assert found[claim][0] == "supported"
    assert found["table 3: MIUB stays above MI"][0] == "contradicted"
    assert not any("ranks" in sentence for sentence in audit_paper().findings)
