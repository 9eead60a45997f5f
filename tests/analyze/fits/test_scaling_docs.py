"""What `docs/scaling-laws.md` says, held against the code."""

import re
from pathlib import Path

from lorascope.analyze.fits.laws import LAWS

PAGE = (Path(__file__).parents[3] / "docs" / "scaling-laws.md").read_text()


def test_the_table_of_laws_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \|$", PAGE, flags=re.MULTILINE)
    documented = {name: equation.strip() for name, equation, _ in rows if name in LAWS}
    assert documented == {name: law.equation for name, law in LAWS.items()}
