"""Every notebook runs from top to bottom, on a small run made on the spot."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from lorascope.study import paper_study

from .analyze.conftest import write_small

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SMALL: dict[str, dict[str, Any]] = {
    "does_miub_matter": {"DRAWS": 100},
    "mi_vs_miub": {
        "COMPONENTS": ["*"],
        "N_SHUFFLES": 1,
        "NOISE_AXES": [2, 4],
        "SIMULATED_TOKENS": 100,
        "SIMULATED_SEEDS": [0],
    },
    "paper_audit": {"DRAWS": 100, "SCRIPTS": str(FOLDER.parent / "study/paper_audit")},
    "quickstart": {},
    "scaling_law": {"WHERE": {}, "OFFSETS": ["sweep"], "DRAWS": 100},
}
"""Parameters of each notebook, in addition to its inputs."""
NEED_RUNS = ("does_miub_matter", "mi_vs_miub", "quickstart")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two adapters."""
    path = tmp_path_factory.mktemp("notebooks") / "small" / "run.zarr"
    path.parent.mkdir()
    write_small(path, adapters=("first", "second"), n_samples=40)
    return path


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that holds the ablation of its components."""
    path = tmp_path_factory.mktemp("ablated") / "small" / "run.zarr"
    path.parent.mkdir()
    write_small(path, ablate="components", n_samples=40)
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's folder: the paper's cells of Phi3 as a study would leave its own."""
    folder = tmp_path_factory.mktemp("study")
    cells = paper_study()
    cells[cells["model"] == "Phi3"].assign(first_prompt=True).to_csv(folder / "study.csv", index=False)
    return folder


@pytest.fixture(autouse=True)
def _kernel_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel leaves behind goes away with the test."""
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def executed(path: Path, folder: Path, parameters: dict[str, Any]) -> Any:
    """The notebook after a run in that folder, with a cell of parameters behind its own, as papermill does it."""
    notebook = nbformat.read(path, as_version=4)
    (place,) = [k for k, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    lines = [f"{name} = {value!r}" for name, value in parameters.items()]
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    return NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_from_top_to_bottom(path: Path, run: Path, ablated: Path, study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    read = {"mi_vs_miub": {"RUNS": [str(run)]}, "quickstart": {"RUN": str(run)}, "scaling_law": {"STUDY": str(study)}}
    read |= {"does_miub_matter": {"RUNS": [str(ablated)]}}
    notebook = executed(path, folder, read.get(path.stem, {}) | SMALL[path.stem])
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output.text for output in outputs if output.output_type == "stream"]  # no warnings either
    assert sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs) >= 5
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", NEED_RUNS)
def test_without_a_run_they_say_how_to_get_one(name: str, tmp_path: Path) -> None:
    with pytest.raises(CellExecutionError, match=r"there is no runs/.*/run.zarr.*`make demo`"):
        executed(FOLDER / f"{name}.ipynb", tmp_path, {})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path: Path) -> None:
    for cell in code_cells(nbformat.read(path, as_version=4)):
        assert cell.outputs == []
        assert cell.execution_count is None


def test_every_notebook_is_known() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(SMALL)
