"""What a user gets from PyPI."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and an sdist of the checkout."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_wheel_holds_the_packages_and_nothing_else(built: Path) -> None:
    names = zipfile.ZipFile(next(built.glob("*.whl"))).namelist()
    folders = {name.split("/")[1] for name in names if name.startswith("lorascope/")}
    assert folders == {"stores", "kernels", "capture", "analyze", "study", "cli", "__main__.py"}
    others = {name.split("/")[0] for name in names} - {"lorascope"}
    assert others == {"lorascope-0.1.0.dist-info"}
    assert "lorascope/__init__.py" not in names
    for wanted in (
        "lorascope/stores/py.typed",
        "lorascope/analyze/report/style.css",
        "lorascope/analyze/viewing/page.html",
        "lorascope/study/facts/facts.train.jsonl",
        "lorascope/study/facts/LICENSE",
        *(f"lorascope/capture/samples/prompts/{name}.txt" for name in ("main", "prompt1", "prompt2", "prompt3")),
    ):
        assert wanted in names
    assert not [name for name in names if "__pycache__" in name or name.endswith((".nbi", ".nbc"))]


def test_sdist_holds_what_the_tests_need(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = archive.getnames()
    tops = {name.split("/")[1] for name in names if "/" in name}
    assert tops >= {
        "stores",
        "capture",
        "analyze",
        "study",
        "cli",
        "view",
        "tests",
        "docs",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    }
    assert not tops & {"runs", ".venv", ".ci", "dist"}
    assert not [name for name in names if "/node_modules/" in name]


def test_wheel_works_outside_of_the_checkout(built: Path, many_rows: Path, tmp_path: Path) -> None:
    """Unpacked elsewhere and put first on the path: what an installed wheel is; no kernel is compiled."""
    wheel = zipfile.ZipFile(next(built.glob("*.whl")))
    wheel.extractall(tmp_path / "site")
    rooms = ("stores", "kernels", "analyze", "study", "cli")
    modules = [
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in wheel.namelist()
        if name.endswith(".py") and name.split("/")[1] in rooms
    ]
    code = (
        "import sys; site, *roots = sys.argv[1:7]; del sys.argv[1:7]\n"
        "sys.path[:] = [site] + [p for p in sys.path if p not in roots]\n"
        "import importlib, lorascope.cli.main as m; assert m.__file__.startswith(site), m.__file__\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        "sys.exit(m.main())"
    )
    roots = [str(ROOT / name) for name in ("stores", "capture", "analyze", "study", "cli")]
    command = [sys.executable, "-c", code, str(tmp_path / "site"), *roots, "info", str(many_rows)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 down_proj, 2 up_proj" in done.stdout


def test_the_citation_names_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    for name in ("version", "license", "keywords"):
        assert citation[name] == project[name]
    assert citation["title"] == project["name"]
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2501.03152"
