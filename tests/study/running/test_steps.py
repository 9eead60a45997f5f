"""A study stopped between any two of its steps, and along with other processes and studies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]
pytest.importorskip("torch")

from lorascope.analyze import save  # noqa: E402
from lorascope.cli.main import main  # noqa: E402
from lorascope.study.running import run, steps  # noqa: E402
from lorascope.study.running.steps import claim_folder, delete_folder, has_recipe  # noqa: E402
from lorascope.study.settings import read_settings  # noqa: E402

Write = Callable[[dict[str, Any]], Path]


class Killed(BaseException):
    """What nothing catches."""


@pytest.fixture
def path(write: Write, content: dict[str, Any], models: Path) -> Path:
    """A study of one unit."""
    content |= {"model": str(models / "llama"), "grid": [{"rank": 2}]}
    return write(content)


def run_study(path: Path, **options: Any) -> list[str]:
    outcomes = run.run_study(read_settings(path), lambda *_: None, **options)
    return [outcome.state for outcome in outcomes]


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def loaded(path: Path) -> xr.Dataset:
    (file,) = (path.parent / "study/results").glob("*s0-facts.nc")
    with xr.open_dataset(file) as results:
        return results.load()


def test_a_folder_without_a_recipe_is_nobodys(tmp_path: Path) -> None:
    work = tmp_path / "unit"
    (work / "adapter/weights").mkdir(parents=True)
    claim_folder(work, {"train": 1})
    assert [file.name for file in work.iterdir()] == ["recipe.json"]
    assert has_recipe(work, {"train": 1})
    assert not has_recipe(work, {"train": 2})
    assert not has_recipe(tmp_path, {})
    with pytest.raises(ValueError, match=r"unit` was made with other settings \(train: 1 -> 2\); put them back, name"):
        claim_folder(work, {"train": 2})
    (tmp_path / ".unit.discarded/old").mkdir(parents=True)
    delete_folder(work)
    delete_folder(work)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_another_process_has_just_made_isnt_made_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was done between the first look and the lock."""
    real, n_looks = steps.is_done, []

    def late(*arguments: Any, **options: Any) -> bool:
        n_looks.append(1)
        if len(n_looks) == 1:
            monkeypatch.setattr(steps, "is_done", real)
            assert run_study(path) == ["made"]
            monkeypatch.setattr(steps, "is_done", late)
            return False
        return bool(real(*arguments, **options))

    monkeypatch.setattr(steps, "is_done", late)
    assert run_study(path) == ["there already"]
    assert len(n_looks) == 2


@pytest.mark.slow
def test_results_have_their_name_only_once_they_were_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise Killed

    real, results = xr.open_dataset, path.parent / "study/results"
    with monkeypatch.context() as patch:
        patch.setattr(steps.xr, "open_dataset", stopped)
        with pytest.raises(Killed):
            run_study(path)
    assert not list(results.glob("*"))

    def doubled(*arguments: Any, **options: Any) -> Any:
        opened = real(*arguments, **options)
        return opened.assign(miub=opened["miub"] * 2)

    with monkeypatch.context() as patch:
        patch.setattr(steps.xr, "open_dataset", doubled)
        with pytest.raises(OSError, match="wouldn't hold what was written"):
            run_study(path)
    assert run_study(path) == ["made"]
    assert len(list(results.iterdir())) == 1


@pytest.mark.slow
def test_two_studies_may_have_one_folder_of_work(write: Write, path: Path, tmp_path: Path) -> None:
    """One that is done deletes what is its own alone."""
    change(path, "tasks:", "work: shared\ntasks:")
    assert run_study(path) == ["made"]
    other = tmp_path / "other.yaml"
    other.write_text(path.read_text().replace("max_steps: 3", "max_steps: 2") + "states: all\n")
    assert run_study(other) == ["made"]
    files = sorted(tmp_path.glob("shared/*/*"))
    assert files
    assert run_study(path) == ["there already"]
    assert sorted(tmp_path.glob("shared/*/*")) == files
    with steps.file_lock(tmp_path / "shared/share1-r2-s0-facts"):
        third = tmp_path / "third.yaml"
        third.write_text(path.read_text())
        assert run_study(third) == ["another process works on it"]


@pytest.mark.slow
def test_estimates_never_stand_beside_results_of_other_runs(path: Path) -> None:
    information = "information: {components: '*.0.self_attn.o_proj', tokens: 60, shuffles: 2}\n"
    path.write_text(path.read_text() + "capture: {states_share: 0.9}\n" + information)
    assert run_study(path) == ["made"]
    results = path.parent / "study/results"
    (estimates,) = results.glob("*.information.nc")
    content = estimates.read_bytes()
    estimates.unlink()
    with pytest.raises(ValueError, match=r"information.nc` is missing; put it back, or delete"):
        run_study(path)
    # Results alone were deleted, and estimates aren't asked for any more.
    (results / "share1-r2-s0-facts.nc").unlink()
    estimates.write_bytes(content)
    change(path, information, "")
    assert run_study(path) == ["made"]
    assert not estimates.exists()


def test_what_isnt_a_units_results_is_said(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = path.parent / "study/results/share1-r2-s0-facts.nc"
    save(xr.Dataset({"x": 1}), place)
    for command, code in (("run", 2), ("status", 1)):
        assert main(["study", command, str(path)]) == code
        printed = "".join(capsys.readouterr())
        assert "isn't a unit's results" in printed or "can't be read" in printed
    place.write_bytes(b"nothing")
    assert main(["study", "run", str(path)]) == 2
    assert "or is damaged" in capsys.readouterr().err
    assert main(["study", "status", str(path)]) == 1
    assert "damaged" in capsys.readouterr().out


def test_a_mistake_in_a_later_unit_is_said_before_any_work(path: Path) -> None:
    text = path.read_text().replace("- rank: 2", "- rank: [2, 0]")
    path.write_text(text if text != path.read_text() else text.replace("  - 2", "  - 2\n  - 0"))
    with pytest.raises(ValueError, match="`rank` is 0"):
        run_study(path)
    assert not (path.parent / "study").exists()
