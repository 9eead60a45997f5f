"""The page's own tests and types, and that its sources give the committed file; skipped without Node."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lorascope.stores.format.layout import MAX_CHUNK_BYTES, TABLE_CHUNK
from lorascope.stores.format.spec import ROW_TOKENS
from lorascope.stores.format.stored_array import MAX_TEXT_BYTES
from lorascope.stores.format.tables import REPLY_SCALES, ROLES

VIEW = Path(__file__).parents[2] / "view"
PAGE = VIEW.parent / "analyze" / "lorascope" / "analyze" / "viewing" / "page.html"


@pytest.fixture(scope="module")
def node() -> str:
    """Path of Node, with the packages of the lock file installed."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("no Node on this machine: `node`")
    installed = VIEW / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < (VIEW / "package-lock.json").stat().st_mtime:
        if shutil.which("npm") is None:
            pytest.skip("no npm on this machine to install the page's packages: `npm`")
        ran("npm", "ci", "--no-audit", "--no-fund")
    return found


def ran(*command: str) -> str:
    done = subprocess.run(command, cwd=VIEW, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_units(node: str) -> None:
    assert "# fail 0" in ran(node, "test.mjs", "--test-reporter=tap")


@pytest.mark.slow
def test_types(node: str) -> None:
    ran(node, "node_modules/typescript/bin/tsc", "--noEmit")


@pytest.mark.slow
def test_a_build_gives_the_committed_page(node: str, tmp_path: Path) -> None:
    ran(node, "build.mjs", str(tmp_path / "page.html"))
    assert (tmp_path / "page.html").read_bytes() == PAGE.read_bytes(), (
        "run `npm run build` in view/ and commit the page"
    )


def test_constants_of_the_format_are_pythons() -> None:
    source = (VIEW / "src" / "data" / "format.ts").read_text()
    stored = dict(re.findall(r"^export const (\w+) = (.*);$", source, re.MULTILINE))
    expected = {"ROW_TOKENS": ROW_TOKENS, "ROLES": list(ROLES), "MAX_TEXT_BYTES": MAX_TEXT_BYTES}
    expected |= {"MAX_CHUNK_BYTES": MAX_CHUNK_BYTES, "TABLE_CHUNK": TABLE_CHUNK, "REPLY_SCALES": list(REPLY_SCALES)}
    assert {name: json.loads(re.sub(r"(?<=\d)_(?=\d)", "", value)) for name, value in stored.items()} == expected
