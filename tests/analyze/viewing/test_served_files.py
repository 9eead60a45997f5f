"""The page's own rules, and what its manifest says."""

import json
import re
import shutil
from pathlib import Path

from lorascope.analyze.viewing.served_files import manifest, page
from lorascope.stores import open_run


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    text = page().decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules.pop("default-src") == rules.pop("base-uri") == rules.pop("form-action") == "'none'"
    assert rules.pop("connect-src") == "'self'"
    assert rules.pop("img-src", "data:") == "data:"
    for name, allowed in rules.items():
        assert name in ("script-src", "style-src")
        assert re.fullmatch(r"('sha256-[A-Za-z0-9+/=]{44}' ?)+", allowed)
    assert text.index(policy) < text.index("</head>")


def test_the_manifest_names_runs_and_where_they_lie(many_rows: Path, tmp_path: Path) -> None:
    names = ("r8.zarr", "a\x1b[2J\nb.zarr")
    runs = [open_run(shutil.copytree(many_rows, tmp_path / name)) for name in names]
    assert json.loads(manifest(runs, ["runs/0/", "../b/"])) == {
        "format": "lorascope.view",
        "format_version": 1,
        "runs": [
            {"name": "r8.zarr", "run": "runs/0/", "index": "indexes/0/"},
            {"name": "a\\x1b[2J\\nb.zarr", "run": "../b/", "index": "indexes/1/"},
        ],
    }
