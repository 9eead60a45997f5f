"""Every block of code in README and docs runs as printed, or is parsed where it can't; every link leads somewhere."""

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import yaml
from cyclopts import CycloptsError

from lorascope.cli.main import COMMANDS, main
from lorascope.study.demo_inputs import facts_path

from .analyze.miub.test_experts import write_mixture
from .pages import PAGES, ROOT, Block, blocks, captured, check, named

pytestmark = pytest.mark.torch

STANDS_IN = {
    "meta-llama/Llama-3.2-1B": "./my-model",
    "meta-llama/Llama-3.1-8B": "./my-model",
    "/scratch/": "scratch/",
    "piqa:validation": "piqa.validation.jsonl",
    "runs/demo/model.gguf": "./my-model",
    "runs/demo/facts.train.jsonl": "questions.jsonl",
    "runs/demo/facts.test.jsonl": "questions.jsonl",
}
"""What only the reader has -> what is put in its place before a block runs."""
RUNS = {
    "run": ("runs/demo/run.zarr", "runs/mine", "runs/r8", "run.zarr"),
    "other": ("runs/r32", "runs/r64", "runs/r128", "runs/r2"),
    "two": ("runs/two",),
}
"""Run made here -> names that pages call it by."""


def test_a_run_is_opened_in_one_way() -> None:
    pages = [*PAGES, *(ROOT / "notebooks").glob("*.ipynb")]
    texts = {page.name: page.read_text() for page in pages}
    assert any("open_run" in text for text in texts.values())
    assert [name for name, text in texts.items() if "from lorascope.stores import open_run" in text] == []


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what pages take for granted: a tiny model, adapters, questions, runs, a study."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("os.fsync", lambda descriptor: None)  # the slowest part, and no test cuts the power
        module("make_models", ROOT / "study/tiny/make_models.py").main(Path("models"))
        shutil.copytree("models/llama", "my-model")
        shutil.copy(ROOT / "tests/capture/samples/chat_templates/chatml.jinja", "my-model/chat_template.jinja")
        for name, split, n in (("questions", "train", 24), ("held-out", "test", 16)):
            lines = facts_path(split).read_text().splitlines(keepends=True)
            Path(f"{name}.jsonl").write_text("".join(lines[:n]))
        common = "--model my-model --data questions.jsonl --held-out held-out.jsonl --learning-rate 0.01 --max-steps 4"
        call(f"finetune {common} --batch-size 8 --rank 4 --miub-every 2 --out my-adapter")
        call(f"finetune {common} --batch-size 8 --rank 2 --out adapter-2")
        capture = "capture --model my-model --data questions.jsonl"
        call(f"{capture} --adapter my-adapter --neutral 2 --out run")
        call(f"{capture} --adapter adapter-2 --out other")
        call(f"{capture} --adapter a=my-adapter --adapter b=adapter-2 --tokens answer --stream base --out two")
    return folder


@pytest.fixture(scope="session")
def study(made: Path) -> Path:
    """A folder with the file and the results of a study of two units."""
    folder = made / "studied"
    folder.mkdir()
    content = {
        "model": "my-model",
        "grid": [{"rank": [2, 4]}],
        "training": {"learning_rate": 1e-2, "batch_size": 4, "max_steps": 3},
        "tasks": {
            "facts": {"train": "questions.jsonl", "train_items": 8, "test": "held-out.jsonl", "test_items": 6},
        },
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    for name in ("my-model", "questions.jsonl", "held-out.jsonl"):
        (folder / name).symlink_to(made / name)
    assert main(["study", "run", str(folder / "study.yaml")]) == 0
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a page's code runs; figures are drawn, but no browser opens."""
    for name in ("my-model", "my-adapter"):
        (tmp_path / name).symlink_to(made / name)
    for name in ("questions.jsonl", "held-out.jsonl"):  # which a page may overwrite
        shutil.copy(made / name, tmp_path)
    for name in ("train.jsonl", "piqa.validation.jsonl"):
        shutil.copy(made / "questions.jsonl", tmp_path / name)
    for folder in ("runs/demo", "adapters", "scratch", "studies"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "runs/demo/adapter").symlink_to(made / "my-adapter")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(go.Figure, "show", lambda figure: figure.to_json())
    return tmp_path


def module(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def call(line: str) -> None:
    assert main(line.split()) == 0, line


def put_runs(made: Path, place: Path, text: str) -> None:
    """Link the runs under the names that a page uses, except those that it captures itself."""
    for source, names in RUNS.items():
        for name in names:
            if name not in captured(text):
                (place / name).symlink_to(made / source)


def for_studies(request: pytest.FixtureRequest, place: Path) -> dict[str, Any]:
    done = request.getfixturevalue("study")
    shutil.copy(done / "study.yaml", place)
    shutil.copytree(done / "study", place / "study")
    (place / "studies/mine").symlink_to(place / "study")
    return {}


def for_our_study(request: pytest.FixtureRequest, place: Path) -> dict[str, Any]:
    """The study that the repository holds, without its data."""
    own = ROOT / "study/smollm2"
    (place / "study/smollm2").mkdir(parents=True)
    for name in ("study.yaml", "study.csv"):
        shutil.copy(own / name, place / "study/smollm2")
    shutil.copytree(own / "results", place / "study/smollm2/results")
    return {}


def for_gallery(request: pytest.FixtureRequest, place: Path) -> dict[str, Any]:
    """The study, and a run of an adapter on experts."""
    write_mixture(place / "runs/mixture/seed-0/pair.zarr")
    return for_our_study(request, place)


def for_tables(request: pytest.FixtureRequest, place: Path) -> dict[str, Any]:
    from lorascope.study import paper_study

    paper_study(once=True).to_csv(place / "study.csv", index=False)
    return {}


def for_pairs(request: pytest.FixtureRequest, place: Path) -> dict[str, Any]:
    call("mi runs/demo/run.zarr --n-tokens 200 --export pairs.npz")
    return {}


def for_training(request: pytest.FixtureRequest, place: Path) -> dict[str, Any]:
    """Another training's record."""
    return {"other_record": json.loads(Path("my-adapter/finetune.json").read_text())}


def for_merged(request: pytest.FixtureRequest, place: Path) -> dict[str, Any]:
    """The adapter merged into its model by PEFT."""
    peft, transformers = (importlib.import_module(name) for name in ("peft", "transformers"))
    model = transformers.AutoModelForCausalLM.from_pretrained("my-model")
    peft.PeftModel.from_pretrained(model, "my-adapter").merge_and_unload().save_pretrained("my-merged-model")
    return {}


PREPARED: dict[str, Callable[[pytest.FixtureRequest, Path], dict[str, Any]]] = {
    "README.md": for_studies,
    "docs/analysis.md": for_merged,
    "docs/howto-adapter.md": for_merged,
    "docs/gallery.md": for_gallery,
    "docs/mutual-information.md": for_pairs,
    "docs/scaling-laws.md": for_tables,
    "docs/studies.md": for_studies,
    "docs/study-report.md": for_studies,
    "docs/study-smollm2.md": for_our_study,
    "docs/training.md": for_training,
}
"""Page -> function that makes what it needs in addition to runs, and returns names for its Python."""


# TRL 1.16 gives transformers 5.24 a setting under its old name; the other is torch's, on a machine without a GPU.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator:UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page.read_text())], ids=named)
def test_its_code_runs_as_printed(page: Path, made: Path, place: Path, request: pytest.FixtureRequest) -> None:
    text = page.read_text()
    if "s3://" in text:
        prefix = request.getfixturevalue("s3").prefix
        if "s3://bucket/run.zarr" not in captured(text):
            call(f"pull {made / 'run'} {prefix}/run.zarr")
        text = text.replace("s3://bucket", prefix)
    for theirs, ours in STANDS_IN.items():
        text = text.replace(theirs, ours)
    put_runs(made, place, text)
    scope: dict[str, Any] = {"__name__": "page"}
    scope |= PREPARED[named(page)](request, place) if named(page) in PREPARED else {}
    for block in blocks(text):
        try:
            check(block, scope)
        except BaseException as error:
            error.add_note(f"{named(page)}, line {block.line}")
            raise


def links(page: Path) -> Iterator[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_its_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path = target.partition("#")[0]
        assert target.startswith("https://") or not path or (page.parent / path).exists(), target


def test_every_test_that_a_page_names_is_there() -> None:
    files = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    named_tests = [
        (file, test)
        for page in sorted((ROOT / "docs").rglob("*.md"))
        for file, test in re.findall(r"((?:\w+/)*test_\w+\.py)(?:::(test_\w+))?", page.read_text())
    ]
    assert len(set(named_tests)) > 50
    for file, test in named_tests:
        contents = [content for path, content in files.items() if f"/{path}".endswith(f"/{file}")]
        assert any(not test or f"def {test}(" in content for content in contents), f"{file}::{test}"


def test_every_promise_names_tests_that_are_there() -> None:
    _, _, promises = (ROOT / "docs/reliability.md").read_text().partition("\n## What is promised\n")
    rows = re.findall(r"^\| (?!promise \|)(.*) \| (.*) \|$", promises, flags=re.MULTILINE)
    assert len(rows) > 50
    files = list((ROOT / "tests").rglob("test_*.py"))
    for promise, tests in rows:
        assert re.fullmatch(r"`[\w/]+\.py::test_\w+`(, `[\w/]+\.py::test_\w+`)*", tests), promise
        for file, test in re.findall(r"`([\w/]+\.py)::(\w+)`", tests):
            (path,) = [path for path in files if path.as_posix().endswith(f"/{file}")]
            assert f"def {test}(" in path.read_text(), f"{file}::{test}"


def test_the_page_of_commands_is_made_of_the_commands() -> None:
    hooks = module("hooks", ROOT / "docs/hooks.py")
    page = hooks.on_page_markdown((ROOT / "docs/reference/cli.md").read_text())
    for name in COMMANDS:
        assert f"\n## lorascope {name}\n" in page
    assert "--reforward INT" in page
    assert "\n### lorascope study plan\n" in page


@pytest.mark.parametrize("package", ["stores", "capture", "analyze"])
def test_the_reference_names_every_public_object(package: str) -> None:
    hooks = module("hooks", ROOT / "docs/hooks.py")
    page = hooks.on_page_markdown((ROOT / f"docs/reference/{package}.md").read_text())
    public = importlib.import_module(f"lorascope.{package}").__all__
    assert [line.rpartition(".")[2] for line in page.splitlines() if line.startswith(":::")] == public


MISTAKES: dict[str, tuple[Block, type[BaseException]]] = {
    "no such option": (Block("console", "$ lorascope miub runs/mine --deep\n", 1), CycloptsError),
    "no such option under torchrun": (
        Block("console", "$ torchrun -m lorascope capture ... --x 1\n", 1),
        CycloptsError,
    ),
    "no such option in a script": (Block("bash", "lorascope study run x.yaml --some 1\n", 1), CycloptsError),
    "exit code": (Block("console", "$ lorascope miub nothing\n", 1), AssertionError),
    "no such extra": (Block("console", "$ pip install 'lorascope[gpu]'\n", 1), AssertionError),
    "no such target": (Block("console", "$ make nothing\n", 1), AssertionError),
    "unknown program": (Block("console", "$ frobnicate\n", 1), AssertionError),
    "script": (Block("bash", "if true; then\n", 1), subprocess.CalledProcessError),
    "python": (Block("python", "1 / 0\n", 1), ZeroDivisionError),
    "python that is only compiled": (Block("python", "SLURMCluster(\n", 1), SyntaxError),
    "session": (Block("python", ">>> 1 + 1\n3\n", 1), AssertionError),
    "study": (Block("yaml", "ranks: 4\n", 1), ValueError),
    "json": (Block("json", "{\n", 1), ValueError),
    "language": (Block("ruby", "1\n", 1), AssertionError),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_block_is_found(name: str) -> None:
    block, error = MISTAKES[name]
    with pytest.raises(error):
        check(block, {})
