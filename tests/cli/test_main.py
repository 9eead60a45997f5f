import importlib
import inspect
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorascope.capture.errors import RankError
from lorascope.cli.main import COMMANDS, main
from lorascope.stores.reading.token_choice import CHOICE_HELP


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, " ".join(out.split()), err


def description_of(command: str) -> str:
    """The text of a command's docstring before its parameters."""
    function = getattr(importlib.import_module(f"lorascope.cli.commands.{command}"), command)
    return str(inspect.getdoc(function)).partition("\n\nParameters\n")[0].replace("`", "")


def plain(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize("command", [None, *(name for name in COMMANDS if name != "study")])
def test_help_has_the_whole_description(capsys: pytest.CaptureFixture[str], command: str | None) -> None:
    words = [command, "--help"] if command else ["--help"]
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert "Usage: lorascope" in out
    descriptions = [description_of(name) for name in ([command] if command else COMMANDS) if name != "study"]
    for description in descriptions:
        assert " ".join((description if command else description.partition("\n\n")[0]).split()) in plain(out)
    if command is None:  # in the order in which they are used
        places = [plain(out).index(text.partition("\n\n")[0]) for text in descriptions]
        assert places == sorted(places)


def mistakes(tmp_path: Path) -> dict[str, tuple[list[object], str]]:
    return {
        "no such command": (["frobnicate"], "no command 'frobnicate'; there are demo, finetune, plan, capture"),
        "nearly a command": (["mibu"], "study, adapter, report, explain, view; did you mean 'miub'?"),
        "a command of earlier versions": (["compact", "x"], "`compact` is now `lorascope pull RUN COPY`, which takes"),
        "no such option": (["verify", "--deep", "x"], "--deep"),
        "no run named": (["miub"], "`runs` is empty; name one run or several"),
        "no run there": (["miub", tmp_path / "nothing"], "doesn't exist; name a run that"),
        "not a level": (["verify", "x", "--level", "all"], 'Invalid value "all" for --level'),
        "not a reduction": (["miub", "x", "--reduction", "median"], 'Invalid value "median" for --reduction'),
        "not a number": (["miub", "x", "--workers", "two"], 'unable to convert "two" into int'),
        "wrong suffix": (["miub", "x", "--out", "x.txt"], ".zarr (Zarr) or .nc (NetCDF)"),
        "no store": (["info", Path(__file__)], "is a file, and a run is a folder; name"),
        "no re-forward": (["verify", "x", "--model", "y"], "say how many, as in `--reforward 4`"),
        "nothing to trust": (["verify", "x", "--trust-remote-code"], "`--trust-remote-code` says how to compute"),
        "less than none": (["verify", "x", "--reforward", "-1"], 'Invalid value "-1" for --reforward. Must be >= 0'),
        "no seed of a copy": (["pull", "x", "y", "--seed", "-1"], 'Invalid value "-1" for --seed. Must be >= 0'),
        "no seed": (["verify", "x", "--reforward", "1", "--seed", "-1"], 'Invalid value "-1" for --seed. Must be >= 0'),
    }


@pytest.mark.parametrize("name", list(mistakes(Path())))
def test_mistake_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    words, message = mistakes(tmp_path)[name]
    code, _, err = run(capsys, *words)
    assert code == 2
    assert err.startswith("lorascope: error: ")
    assert err.count("\n") == 1
    assert message in err


def test_traceback_on_request(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="doesn't exist"):
        main(["miub", str(tmp_path / "nothing"), "--traceback"])


def test_verify_says_sound_or_what_is_wrong(
    capsys: pytest.CaptureFixture[str], many_rows: Path, tmp_path: Path
) -> None:
    code, out, _ = run(capsys, "verify", many_rows)
    assert code == 0
    assert "sound by checksums, decoding, statistics; 3 of 3 rows committed" in out
    broken = shutil.copytree(many_rows, tmp_path / "broken")
    (broken / "states/model.layers.0.mlp.up_proj/base/c.1.0").unlink()
    code, out, _ = run(capsys, "verify", broken, "--level", "digests")
    assert code == 1
    assert "missing" in out
    assert "1 problem by checksums;" in out
    code, out, _ = run(capsys, "verify", Path(__file__).parents[1] / "stores/golden/v1.zarr")
    assert code == 0
    assert (
        "this run was written before roots had a digest, so changes of attributes such as parameter counts"
        in " ".join(out.split())
    )


def test_report_is_written_beside_the_run(capsys: pytest.CaptureFixture[str], many_rows: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(many_rows, tmp_path / "run.zarr")
    dotted = shutil.copytree(many_rows, tmp_path / "llama-3.1[b]")
    code, out, _ = run(capsys, "report", dotted, "--component", "*.up_proj", "--component", "*.1.*")
    assert code == 0
    assert str(tmp_path / "llama-3.1[b].html") in out
    page = (tmp_path / "llama-3.1[b].html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "3 of 4 components were chosen" in page
    code, out, _ = run(capsys, "report", dotted, copy)
    assert code == 0
    assert str(tmp_path / "llama-3.1[b]-compared.html") in out
    assert "Where they act" in (tmp_path / "llama-3.1[b]-compared.html").read_text()
    code, _, err = run(capsys, "report", copy, tmp_path / "none")
    assert code == 2
    assert "doesn't exist" in err


WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "peft"):
    sys.modules[name] = None
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "peft", "accelerate"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
for name in ("torch", "transformers", "peft"):
    del sys.modules[name]
sys.meta_path.insert(0, Block())
from lorascope.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", ["capture", "plan", "pull", "mi"])
def test_every_command_explains_tokens_alike(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert CHOICE_HELP in plain(run(capsys, command, "--help")[1])


HEAVY = {"dask", "numba", "numpy", "pandas", "plotly", "scipy", "sklearn", "statsmodels", "torch", "xarray", "zarr"}


def test_help_and_version_load_nothing_heavy() -> None:
    """Zarr, xarray and Dask take seconds; a second import proves that the first finding can differ."""
    code = f"import sys; from lorascope.cli.main import main; heavy = {HEAVY}; main(['--help']);"
    code += " print(sorted(heavy & {*sys.modules})); import lorascope.stores; print(sorted(heavy & {*sys.modules}));"
    code += " lorascope.stores.open_run; print('zarr' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-3:] == ["[]", "[]", "True"]
    done = subprocess.run([sys.executable, "-m", "lorascope", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0.1.0"


@pytest.mark.parametrize(
    ("module", "extra", "words"),
    [
        ("torch", "capture", ["verify", "{run}", "--reforward", "1"]),
        ("distributed", "cluster", ["miub", "{run}", "--scheduler", "tcp://127.0.0.1:1"]),
        pytest.param(
            *("datasets", "datasets", ["finetune", "--model", "none", "--data", "piqa:train", "--out", "{run}/out"]),
            marks=pytest.mark.torch,
        ),
    ],
)
def test_without_a_module_its_extra_is_named(many_rows: Path, module: str, extra: str, words: list[str]) -> None:
    block = f"import sys; sys.modules[{module!r}] = None"
    code = f"{block}; from lorascope.cli.main import main; sys.exit(main(sys.argv[1:]))"
    code = WITHOUT_TORCH if module == "torch" else code
    line = [sys.executable, "-c", code, *(word.format(run=many_rows) for word in words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"which isn't installed; `pip install 'lorascope[{extra}]'` brings it\n" in done.stderr
    assert done.stderr.removeprefix("loading none\n").count("\n") == 1


def test_without_torch_analysis_works(many_rows: Path) -> None:
    line = [sys.executable, "-c", WITHOUT_TORCH, "miub", str(many_rows)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "MIUB" in done.stdout


def test_users_own_analyze_module_shadows_nothing(tmp_path: Path) -> None:
    (tmp_path / "analyze.py").write_text("raise SystemExit('shadowed')")
    (tmp_path / "stores.py").write_text("raise SystemExit('shadowed')")
    code = "import lorascope.analyze, lorascope.stores; print('ours')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.strip() == "ours"


def test_public_objects_are_those_we_promise() -> None:
    import lorascope.analyze
    import lorascope.stores

    names = lorascope.analyze.__all__
    assert names == sorted(set(names))
    assert all(callable(getattr(lorascope.analyze, name)) for name in names)
    assert set(names) >= {
        "adapter_report", "compare_measures", "compare_metrics", "directions", "explain", "export_pairs", "fit_report",
        "fit_scaling_law", "group_by", "jensen_shannon", "js_lower_bound", "js_upper_bound",
        "measure_information", "measure_run",
        "miub", "miub_readings", "mutual_information", "open_result", "paired", "qualify", "reply_words", "save",
        "scores_table", "to_dataframe", "token_measure",
        "truncate_adapter",
    }  # fmt: skip
    assert lorascope.stores.__all__ == [
        "Adapter", "Component", "ExpertBlock", "Place", "Problem", "RowWritten", "Run", "RunSpec", "RunWriter",
        "StoreError", "Verdict", "clear_torn", "create_run", "open_place", "open_run", "pull", "resume_run",
        "run_state", "verify", "widen",
    ]  # fmt: skip


class Stopped(KeyboardInterrupt):
    """A capture's, which has the last word."""

    exit_code = 143


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, Stopped("stopped after 2 of 4 rows")])
def test_signal_ends_a_command_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop: signal.Signals | Stopped
) -> None:
    cleaned = []

    def state_of(path: str) -> str:
        try:
            if isinstance(stop, Stopped):
                raise stop
            os.kill(os.getpid(), stop)
            time.sleep(60)
        finally:
            cleaned.append(path)
        return "absent"

    monkeypatch.setattr("lorascope.stores.open_run", state_of)
    (tmp_path / "zarr.json").write_text("{}")
    before = signal.getsignal(signal.SIGTERM)
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        code, out, err = run(capsys, "info", tmp_path)
    finally:
        signal.signal(signal.SIGINT, interrupt)
    said = str(stop) if isinstance(stop, Stopped) else "interrupted; what was finished until then is whole"
    assert (code, out, err) == (130 if stop == signal.SIGINT else 143, "", f"lorascope: error: {said}\n")
    assert cleaned == [str(tmp_path)]
    assert signal.getsignal(signal.SIGTERM) is before


def test_signal_of_torchrun_leaves_the_line_on_the_rank_that_failed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(path: str) -> str:
        try:
            raise RankError("rank 1 of 2 ended: CUDA out of memory")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("lorascope.stores.open_run", fail)
    (tmp_path / "zarr.json").write_text("{}")
    code, out, err = run(capsys, "info", tmp_path)
    assert (code, out, err) == (2, "", "lorascope: error: rank 1 of 2 ended: CUDA out of memory\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("Unable to allocate 9 EiB"), "there isn't memory enough for `lorascope info {run}`: Unable to"),
        (MemoryError(), "there isn't memory enough for `lorascope info {run}`\n"),
        (RecursionError("maximum recursion depth exceeded"), "something is nested too deep for `lorascope info {run}`"),
    ],
)
def test_what_is_too_large_or_too_deep_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    many_rows: Path,
    error: BaseException,
    said: str,
) -> None:
    def fail(path: str) -> None:
        raise error

    monkeypatch.setattr("lorascope.stores.open_run", fail)
    code, _, err = run(capsys, "info", many_rows)
    assert code == 2
    assert err.startswith("lorascope: error: " + said.format(run=many_rows))
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", ["info {run} --json", "--help"])
def test_an_answer_that_nobody_reads_to_its_end_is_no_error(many_rows: Path, words: str) -> None:
    shell = f'{{ "$0" -m lorascope {words.format(run=many_rows)}; echo "$?" >&2; }} | true'
    done = subprocess.run(["bash", "-c", shell, sys.executable], capture_output=True, text=True, check=False)
    assert done.stderr == "0\n"  # nothing but the exit code


def test_a_broken_pipe_of_another_kind_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, many_rows: Path
) -> None:
    def fail(path: str) -> None:
        raise BrokenPipeError(32, "Broken pipe", "worker")

    monkeypatch.setattr("lorascope.stores.open_run", fail)
    code, _, err = run(capsys, "info", many_rows)
    assert (code, err) == (2, "lorascope: error: [Errno 32] Broken pipe: 'worker'\n")


@pytest.mark.parametrize(
    ("own", "expected"),
    [({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(own: dict[str, str], expected: str) -> None:
    code = (
        "import os, lorascope.cli.main, sys; assert 'torch' not in sys.modules; print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    kept = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", code], env=kept | own, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
