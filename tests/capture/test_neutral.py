"""Neutral texts in a run of their own: what the base writes, and that the run around them stays as it is."""

import copy
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats
from transformers import GenerationConfig

from lorascope import analyze
from lorascope.analyze.report.page import page_path, paragraph
from lorascope.analyze.results.format import format_error
from lorascope.analyze.results.sizes import sizes
from lorascope.analyze.viewing.index import index_path
from lorascope.capture import CaptureConfig, plan
from lorascope.capture.models.ranks import ALONE
from lorascope.capture.reforward import reforward
from lorascope.capture.samples.encoded import TEXT, EncodedSample
from lorascope.capture.samples.generate import generate
from lorascope.capture.settling.estimate import estimate
from lorascope.capture.settling.neutral import write_neutral_texts
from lorascope.cli.main import main
from lorascope.stores import Run, StoreError, open_run, pull, verify
from lorascope.stores.copying.copy_target import copied_spec
from lorascope.stores.places.folder import FolderPlace
from lorascope.stores.reading.read import open_neutral

from ..stores.on_disk import unfinish
from ..tiny import save_model

N = 3


def neutral_of(run: Run) -> Run:
    neutral = open_neutral(run)
    assert neutral is not None
    return neutral


def texts_of(run: Run) -> list[list[int]]:
    ids, starts = run.tokens["token_id"].values, run.samples["token_start"].values
    return [part.tolist() for part in np.split(ids, starts[1:])]


@torch.inference_mode()
def by_hand(base: Any, number: int, seed: int = 0) -> list[int]:
    """A text from the definition: whole sequences, one cumulated softmax per token, until 128 tokens or the end."""
    ids, uniforms = [0], np.random.default_rng([seed, 4, number]).random(127)
    for uniform in uniforms:
        probability = base(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double().softmax(-1).cumsum(-1)
        token = int(torch.searchsorted(probability, float(uniform) * probability[-1], right=True))
        if token == 1:
            break
        ids.append(token)
    return ids


@pytest.mark.parametrize("batch_tokens", [1, 1024])
def test_texts_are_draws_from_the_base(
    adapted: Any, tiny_model: Any, tiny_tokenizer: Any, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorascope.capture.settling.neutral.LEAST_BATCH_TOKENS", 1)
    others = {"do_sample": True, "top_k": 2, "top_p": 0.3, "temperature": 0.2, "repetition_penalty": 3.0}
    adapted.get_base_model().generation_config = GenerationConfig(**others, eos_token_id=1)
    before = torch.random.get_rng_state()
    options: dict[str, Any] = {"seed": 0, "batch_tokens": batch_tokens, "progress": None}
    texts = write_neutral_texts(adapted, tiny_tokenizer, N, ALONE, **options)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [text.token_ids.tolist() for text in texts] == [by_hand(tiny_model, number) for number in range(N)]
    lengths = [len(text.token_ids) for text in texts]
    assert min(lengths) < 128 == max(lengths)  # some end by themselves
    assert all(1 not in text.token_ids for text in texts)  # after its end nothing is predicted
    other = write_neutral_texts(adapted, tiny_tokenizer, 2, ALONE, **{**options, "seed": 1})
    assert [text.token_ids.tolist() for text in other] == [by_hand(tiny_model, number, 1) for number in range(2)]


def test_tokens_have_the_frequencies_of_the_softmax(tiny_model: Any) -> None:
    n = 4000
    ids, role = np.array([0, 5]), np.array([TEXT, TEXT], np.uint8)
    sample = EncodedSample(id="0", dataset="d", split="s", prompt="text", token_ids=ids, roles=role)
    uniforms = np.random.default_rng(3).random((n, 1))
    drawn = generate(tiny_model, [sample] * n, n=1, batch_tokens=4096, uniforms=uniforms)
    with torch.inference_mode():
        expected = tiny_model(input_ids=torch.tensor([[0, 5]])).logits[0, -1].double().softmax(-1).numpy() * n
    counts = np.bincount([text.token_ids[-1] for text in drawn], minlength=len(expected))
    often = expected >= 5
    together = [np.append(values[often], values[~often].sum()) for values in (counts, expected)]
    assert stats.chisquare(*together).pvalue > 1e-3


PUBLIC: dict[str, Callable[[Run], Any]] = {
    "changes": analyze.changes,
    "compare_measures": analyze.compare_measures,
    "directions": lambda run: analyze.directions(run, run.component_paths[3]),
    "group_by": lambda run: analyze.group_by(analyze.miub(run), "kind"),
    "importance": analyze.importance,
    "measure_run": lambda run: analyze.measure_run(run, ("delta_norm",)),
    "miub": analyze.miub,
    "qualify": analyze.qualify,
    "scores_table": analyze.scores_table,
    "samples": lambda run: run.samples,
    "states": lambda run: run[run.component_paths[3]],
    "tokens": lambda run: run.tokens.drop_vars("text"),
}


def test_the_run_around_them_is_the_same(make: Any, content: Any, tmp_path: Path) -> None:
    settings = {"importance": 2, "ablate": "components", "ablate_share": 1.0, "tokens": "share:0.5"}
    plain, run = make("plain.zarr", **settings), make("run.zarr", **settings, neutral=N)
    neutral_of(run)
    assert "neutral" not in run.attributes["provenance"]["settings"]
    before, after = content(tmp_path / "plain.zarr"), content(tmp_path / "run.zarr")
    assert before == {key: value for key, value in after.items() if not key.startswith("neutral/")}
    for name, function in PUBLIC.items():
        one, other = (function(each) for each in (plain, run))
        assert one.equals(other) if isinstance(one, xr.Dataset | xr.DataArray | xr.DataTree) else one == other, name


def test_measures_are_those_of_both_models(make: Any, adapted: Any) -> None:
    run = neutral_of(make(neutral=N, codec="raw", changes="none", js_share=0.01))
    kl, place = run.reduction("kl").values, 0
    assert not np.isnan(run.reduction("js").values).any()
    for ids in texts_of(run):
        with torch.inference_mode():
            p = adapted(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
            with adapted.disable_adapter():
                q = adapted(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        expected = (q.exp() * (q - p)).sum(-1).numpy()
        np.testing.assert_allclose(kl[place : place + len(ids)], expected, rtol=2e-4, atol=1e-7)
        place += len(ids)
    assert place == run.n_tokens
    assert set(run.token_labels["role"].values) == {"text", "generated"}


def test_a_finished_run_gets_them_later_and_only_once(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = partial(make, window_tokens=100)
    make()
    files = [file for file in (tmp_path / "run.zarr").rglob("*") if file.is_file()]
    before = {file: file.stat().st_mtime_ns for file in files}
    texts = texts_of(neutral_of(make(neutral=N)))
    assert {file: file.stat().st_mtime_ns for file in files} == before
    monkeypatch.setattr("lorascope.capture.settling.settle.write_neutral_texts", None)  # would be called
    assert texts_of(neutral_of(make(neutral=N))) == texts
    assert make().finished
    with pytest.raises(
        StoreError, match=r"has neutral texts already: '3 texts by the base \(in the run\)', not '4 texts"
    ):
        make(neutral=N + 1)
    file = tmp_path / "wiki.txt"
    file.write_text("the answer is a question " * 4)
    with pytest.raises(StoreError, match="give the same `neutral`, or delete that folder"):
        make(neutral=str(file))


@pytest.mark.parametrize("at", ["write neutral texts", "capture"])
def test_after_a_stop_the_same_texts_are_captured(make: Any, tmp_path: Path, at: str) -> None:
    make("whole.zarr", neutral=N)
    make()
    seen: list[Any] = []

    def stop(now: Any) -> None:
        seen.append(now)
        if now.stage == at:
            raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        make(neutral=N, progress=stop)
    assert (tmp_path / "run.zarr/neutral").exists() == (at == "capture")
    run = make(neutral=N)
    assert texts_of(neutral_of(run)) == texts_of(neutral_of(open_run(tmp_path / "whole.zarr")))
    assert neutral_of(run).finished
    chunks = [sorted((tmp_path / name / "neutral").rglob("c.*")) for name in ("whole.zarr", "run.zarr")]
    assert [chunk.read_bytes() for chunk in chunks[0]] == [chunk.read_bytes() for chunk in chunks[1]]


def test_a_file_of_texts(make: Any, text: Path) -> None:
    run = make(neutral=str(text), limit=3, window_tokens=100)
    neutral = neutral_of(run)
    assert neutral.samples["id"].values.tolist() == ["text:0", "text:1", "text:2"]
    assert neutral.n_tokens == 300
    result = analyze.forgetting(run)
    assert result.attrs["source"] == f"of {text}"
    assert (result["kl"] > 0).all()
    text.write_text("the question " * 200)
    with pytest.raises(StoreError, match=r"run.zarr/neutral. contains another capture.*data: "):
        make(neutral=str(text), limit=3, window_tokens=100)
    text.unlink()
    for name, error, words in (
        (str(text), FileNotFoundError, "data file '.*text.txt' doesn't exist"),
        ("1e9", ValueError, "data file is '1e9'; its name must end in"),
    ):
        with pytest.raises(error, match=f"`neutral` is a number of texts or a file of texts, but {words}"):
            make(neutral=name)


def test_they_are_checked_computed_again_and_copied(
    make: Any, adapted: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    run = make(neutral=N)
    inside = str(neutral_of(run).path)
    again = reforward(inside, 3, model=adapted, tokenizer=tiny_tokenizer)
    assert again.n_equal == again.n_vectors > 0
    assert reforward(str(run.path), 2, model=adapted, tokenizer=tiny_tokenizer).problems == []
    copied = pull(run.path, tmp_path / "part.zarr", samples=2, component="*.q_proj", codec="raw")
    part = neutral_of(copied)
    assert part.n_tokens == neutral_of(run).n_tokens
    assert part.component_paths == copied.component_paths
    kl = [analyze.forgetting(each)["kl"].values[0] for each in (run, copied)]
    assert kl[0] == kl[1]
    sound = verify(run.path)
    assert sound.ok
    assert sound.n_rows == run.n_rows + neutral_of(run).n_rows
    chunk = Path(inside, "tokens/nll/c.0")
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    places = {problem.place for problem in verify(run.path).problems}
    assert "neutral/tokens/nll/c.0" in places
    Path(inside, "zarr.json").write_text("{")
    with pytest.raises(StoreError, match="run.zarr/neutral. isn't a readable Zarr group"):
        verify(run.path)


def test_files_about_them_are_outside_of_the_run(make: Any, tmp_path: Path) -> None:
    run = make(neutral=N)
    inside, before = neutral_of(run), {file for file in (tmp_path / "run.zarr").rglob("*") if file.is_file()}
    assert page_path(inside, ".html") == tmp_path / "run.zarr.neutral.html"
    assert index_path(inside) == tmp_path / "run.zarr.neutral.view"
    answer = dict(paragraph(run, analyze.explain(run)))["What did it forget?"]
    assert "What did it forget?" not in dict(paragraph(inside, analyze.explain(inside)))
    assert (tmp_path / "run.zarr.neutral.results").is_dir()
    assert {file for file in (tmp_path / "run.zarr").rglob("*") if file.is_file()} == before
    found = analyze.forgetting(run)
    kl = list(map(format_error, found["kl"].values, found["kl_se"].values))
    assert answer == (
        f"On 3 texts that the base wrote itself the next token moves by {kl[0]} nat, on the data by {kl[1]} "
        "(mean KL(base || adapted); 0 if nothing is forgotten)."
    )
    unfinish(Path(inside.path), 0)
    answers = dict(paragraph(run, analyze.explain(run)))
    assert answers["What did it forget?"].startswith("Can't tell, since the neutral texts aren't captured yet")


def test_several_adapters_are_measured_on_the_same_texts(make: Any, adapted: Any) -> None:
    adapted.add_adapter("other", adapted.peft_config["default"])
    torch.nn.init.normal_(adapted.get_submodule("base_model.model.model.layers.1.mlp.down_proj").lora_B["other"].weight)
    for parameter in (p for name, p in adapted.named_parameters() if "lora_B.other" in name):
        torch.nn.init.constant_(parameter.data, 0.01)
    run = make(model=adapted, stream="base", neutral=2)
    one, other = (float(analyze.forgetting(run, adapter=name)["kl"][0]) for name in ("default", "other"))
    assert one != other > 0


def test_what_cannot_write_is_refused(
    make: Any, adapted: Any, tiny_tokenizer: Any, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n, limit in ((0, "least 1"), (-3, "least 1"), (10**9, "most 10000")):
        with pytest.raises(ValueError, match=f"`neutral` is {n}; give at {limit}"):
            make(neutral=n)
    bare = copy.deepcopy(tiny_tokenizer)
    bare.bos_token = bare.eos_token = None
    options: dict[str, Any] = {"seed": 0, "batch_tokens": 500, "progress": None}
    adapted.get_base_model().config.bos_token_id = None
    adapted.get_base_model().config.eos_token_id = adapted.get_base_model().generation_config.eos_token_id = None
    with pytest.raises(ValueError, match="neither tokenizer nor model names a token that begins or ends a text"):
        write_neutral_texts(adapted, bare, 1, ALONE, **options)
    bare.eos_token = "</s>"  # GPT-2 begins a text with the token that ends one
    (text,) = write_neutral_texts(adapted, bare, 1, ALONE, **options)
    assert text.token_ids[0] == bare.eos_token_id


def test_a_model_without_next_tokens_is_refused() -> None:
    from lorascope.capture.models.model import ModelFacts
    from lorascope.capture.settling.neutral import neutral_config

    facts = ModelFacts(
        class_name="BertModel", context_length=9, n_known_tokens=9, is_causal=False, attends_by_length=True
    )
    config = CaptureConfig(model="m", adapter="a", data="d", out="o", neutral=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`neutral` is 3, but BertModel doesn't predict the next token"):
        neutral_config(config, facts)


def test_a_plan_counts_them(
    make: Any, tiny_model: Any, tiny_tokenizer: Any, tiny_adapter: Path, data: Path, text: Path, tmp_path: Path
) -> None:
    folder = save_model(tmp_path / "model", tiny_model, tiny_tokenizer)
    settings: Any = {"model": str(folder), "adapter": (str(tiny_adapter),), "data": (str(data),)}
    settings["out"] = str(tmp_path / "out.zarr")
    without = plan(CaptureConfig(**settings), probe=False)
    made = plan(CaptureConfig(**settings, neutral=3))
    assert any("3 neutral texts are counted with 384 tokens, at the speed of a pass" in text for text in made.remarks)
    assert made.fit[0].needed_bytes == without.fit[0].needed_bytes + made.fit[0].parts["neutral texts"]
    assert made.seconds["neutral"] > 0
    assert made.spec == without.spec
    captured = make("out.zarr", neutral=3)
    sizes = [file.stat().st_size for file in (tmp_path / "out.zarr/neutral").rglob("*") if file.is_file()]
    blocks = sum(-(-size // 4096) * 4096 for size in sizes)
    assert 0.5 < blocks / made.fit[0].parts["neutral texts"] < 1
    assert neutral_of(captured).n_tokens < 384
    of_file = plan(CaptureConfig(**settings, neutral=str(text), window_tokens=200), probe=False)
    (remark,) = (remark for remark in of_file.remarks if "neutral" in remark)
    n_texts, n_tokens = map(int, re.findall(r"\d+", remark))
    assert 3000 < n_tokens < 200 * n_texts < n_tokens + 200


def test_a_budget_counts_them(go: Any, tmp_path: Path) -> None:
    def share(run: Run) -> float:
        return float(run.attributes["provenance"]["settings"]["tokens"].removeprefix("share:"))

    def make(out: str, budget: str, neutral: int | None = None) -> Run:
        run: Run = go(out, budget=budget, neutral=neutral, score=False, changes="none")
        return run

    alone, both = make("alone.zarr", "5 MB"), make("both.zarr", "5 MB", 1)
    assert 0 < share(both) < share(alone) < 1
    sizes = [file.stat().st_size for file in (tmp_path / "both.zarr").rglob("*") if file.is_file()]
    assert sum(-(-size // 4096) * 4096 for size in sizes) < 5_000_000
    for neutral in (1, None):  # goes on with the tokens that were chosen
        assert share(make("both.zarr", "5 MB", neutral)) == share(both)
    words = r"`budget` is '5 MB', but `.*alone.zarr` was begun with tokens 'share:.*' and needs .* MB, with its neutral"
    with pytest.raises(StoreError, match=words):
        make("alone.zarr", "5 MB", 1)
    grown = make("alone.zarr", "20 MB", 1)
    assert share(grown) == share(alone)
    assert neutral_of(grown).finished
    root = json.loads((tmp_path / "alone.zarr/neutral/zarr.json").read_text())
    del root["attributes"]["provenance"]
    (tmp_path / "alone.zarr/neutral/zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match="has neutral texts already: of unknown origin, not '1 texts by the base"):
        make("alone.zarr", "20 MB", 1)
    with pytest.raises(StoreError, match="one token of each of .* samples and its neutral texts needs .* MB with its"):
        make("third.zarr", "1 MB", 1)


def test_the_free_space_counts_them(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = estimate(copied_spec(make("plain.zarr"))).needed_bytes
    monkeypatch.setattr(FolderPlace, "free_bytes", lambda self: needed)
    make("alone.zarr")
    monkeypatch.setattr("lorascope.capture.settling.settle.write_neutral_texts", None)  # the base writes none before
    with pytest.raises(StoreError, match="the run, with its neutral texts, would take about .* where .* are free"):
        make("both.zarr", neutral=1)


def test_sizes_are_those_of_the_run_around_them(make: Any) -> None:
    plain, run = make("plain.zarr"), make(neutral=N)
    *alone, before = sizes(plain)
    *parts, whole = sizes(run)
    assert [part.part for part in parts] == [part.part for part in alone]
    assert whole.raw_bytes == before.raw_bytes
    assert whole.stored_bytes == pytest.approx(before.stored_bytes, abs=200)  # names and times in the root
    assert sizes(neutral_of(run))[-1].stored_bytes > 1000


def test_a_queue_too_small_for_them_is_refused_before_the_first_row(make: Any, tmp_path: Path) -> None:
    settings = {"states": "none", "changes": "none", "batch_tokens": 100, "queue": "400kB"}
    with pytest.raises(ValueError, match="`queue` is 400000 bytes, but a batch fills 1 rows at once"):
        make(neutral=10, **settings)
    assert not (tmp_path / "run.zarr").exists()
    assert make(**settings).finished


def test_info_says_whether_all_are_captured(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(neutral=N)
    for state in ("finished", "unfinished"):
        if state == "unfinished":
            unfinish(Path(neutral_of(run).path), 0)
        capsys.readouterr()
        assert main(["info", str(run.path), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert (facts["state"], facts["neutral"]["default"]["state"]) == ("finished", state)
