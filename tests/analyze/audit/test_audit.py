import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.audit.audit import TABLES, Audit
from lorascope.analyze.audit.audit_table import audit_table
from lorascope.study.paper_tables import paper_table


@pytest.fixture(scope="module")
def audit() -> Audit:
    return audit_table(paper_table(1), order={"rank": ["r32", "r512"]}, directions={"MIUB": "falls"})


def test_summary_shows_what_is_wrong(audit: Audit) -> None:
    text = str(audit.summary())
    assert "averages that aren't plain means" in text
    assert "contradicted: AVG is the plain mean of its members (29 of 42 differ" in text
    finding = "LLaMA3 r32 and LLaMA3 share1 have the same numbers in all 18 cells"
    assert text.index("contradicted: ") < text.index(f"\n  {finding}") < text.index("averages that aren't plain means")
    assert "| Phi3 | CE | r128 | 5 | 0.251000 | 0.223200 |" in audit.summary().as_markdown()
    assert "| Phi3 | ACC | r32 |" not in audit.summary().as_markdown()
    assert "<td>0.251000</td>" in audit.summary()._repr_html_()
    assert audit.summary().facts == {"numbers": "252", "findings": "5"}


def test_summary_leaves_out_tables_without_rows(make: Callable[..., pd.DataFrame]) -> None:
    clean = audit_table(make(np.ones((1, 1, 1, 1))))
    assert [table.title for table in clean.summary().tables] == ["weights behind averages"]


def test_every_table_is_documented_and_every_title_has_a_table() -> None:
    names = {one.name for one in dataclasses.fields(Audit)}
    assert set(TABLES) <= names
    assert names - set(TABLES) == {"steps", "decimals", "findings", "verdicts", "notes", "provenance"}


def test_json_keeps_every_digit(audit: Audit) -> None:
    record = json.loads(json.dumps(audit.to_dict(), allow_nan=False))
    assert record["kind"] == "audit_table"
    assert len(record["averages"]) == 42
    assert record["repairs"][1]["source_high"] == audit.repairs["source_high"][1]
    assert record["provenance"]["n_rows"] == 252
    assert record["verdicts"][0] == audit.verdicts[0]._asdict()
    assert record["findings"] == list(audit.findings)
    assert set(record) == {"kind"} | {one.name for one in dataclasses.fields(Audit)}
