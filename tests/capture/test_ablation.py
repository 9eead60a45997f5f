"""What taking a part of the adapter out does to predictions, against models from which it was taken by hand."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM

from lorascope.capture import CaptureConfig, CaptureProgress, capture
from lorascope.capture.models.passes import disabled_adapters
from lorascope.capture.models.refusal import lora_layers
from lorascope.stores import Run, open_run, verify

from ..marks import slow_but
from .recorded import adapt, padded_batches
from .recording.test_models import BERT, DECODERS

BATCH_TOKENS = 300
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "Llama, DoRA": ("llama", {"target_modules": "all-linear", "use_dora": True}, "components"),
    "GPT-2, Conv1D and embedding": ("gpt2", DECODERS["gpt2"][1], "components"),
    "GPT-NeoX, bias": ("gpt_neox", {"target_modules": "all-linear", "lora_bias": True}, "layers"),
    "Qwen3": ("qwen3", {"target_modules": "all-linear"}, "kinds"),
    "Phi-3, saved head": (
        "phi3",
        {"target_modules": ["qkv_proj", "gate_up_proj", "down_proj"], "modules_to_save": ["lm_head"]},
        "components",
    ),
    "OPT, everything at once": ("opt", {"target_modules": ["q_proj"]}, "kinds"),
}
"""Architecture, adapter, and what a part is."""

pytestmark = [
    pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings"),
]


@pytest.fixture
def log_probabilities(tiny_items: Any, tiny_tokenizer: Any) -> Callable[[Any], torch.Tensor]:
    """Float64 log softmax of a model's logits by real token, in the batches of a capture."""

    def find(model: Any) -> torch.Tensor:
        found = []
        for _, inputs in padded_batches(tiny_items, tiny_tokenizer, BATCH_TOKENS):
            with torch.inference_mode():
                logits = model(**inputs).logits
            found.append(logits[inputs["attention_mask"].bool()].double().log_softmax(-1))
        return torch.cat(found)

    return find


def without(model: Any, paths: list[str]) -> Any:
    """The plain model, with PEFT's modules at these paths replaced by the frozen ones that they wrap."""
    plain = copy.deepcopy(model.get_base_model())
    for path in paths:
        parent, _, name = path.rpartition(".")
        wrapped = plain.get_submodule(path)
        bare = wrapped.original_module if hasattr(wrapped, "modules_to_save") else wrapped.base_layer
        setattr(plain.get_submodule(parent), name, bare)
        assert type(bare).__module__.partition(".")[0] in ("torch", "transformers")
    return plain


@pytest.mark.parametrize("stream", slow_but(["adapted", "pair"], "adapted"))
@pytest.mark.parametrize("case", CASES)
def test_it_is_that_of_models_from_which_the_part_was_removed(
    case: str, stream: str, tiny_items: Any, tiny_tokenizer: Any, log_probabilities: Any, tmp_path: Path
) -> None:
    """Equal in every bit: a layer without its adapter computes what the bare layer does, in the same batches."""
    architecture, options, by = CASES[case]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = AutoModelForCausalLM.from_config(DECODERS[architecture][0]).eval()
    for parameter in plain.parameters():  # without training weights are so small that attention sees no difference
        parameter.data.mul_(5 if parameter.ndim == 2 else 1)
    model = adapt(plain, **options)
    run = capture(
        model, tiny_items, tmp_path / "run.zarr", tokenizer=tiny_tokenizer, progress=False, score=False,
        stream=stream, states="none", batch_tokens=BATCH_TOKENS, ablate=by, ablate_share=1.0,
    )  # fmt: skip
    found = run.ablation()
    table = run.components.to_dataframe()
    parts = {"components": table["path"], "layers": table["layer"].astype(str), "kinds": table["kind"]}[by]
    assert (found.attrs["parts"], list(found["part"].values)) == (by, list(dict.fromkeys(parts)))
    p = log_probabilities(model)
    for part in found["part"].values:
        q = log_probabilities(without(model, table["path"][parts == part].tolist()))
        expected = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1).clamp(min=0).float()
        assert expected.max() > 1e-4, part
        np.testing.assert_array_equal(found.sel(part=part).values, expected.numpy(), err_msg=part)
    if case.endswith("at once"):  # nothing of the adapter is left
        (part,) = found["part"].values
        with model.disable_adapter():
            q = log_probabilities(model)
        expected = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1).float()
        np.testing.assert_array_equal(found.sel(part=part).values, expected.numpy())
    assert verify(run.path).ok


def test_only_its_own_parts_are_silenced_and_only_for_a_while(adapted: Any) -> None:
    layers = list(lora_layers(adapted).values())
    layers[1]._disable_adapters = True
    with disabled_adapters(layers[:2]):
        assert [layer._disable_adapters for layer in layers[:3]] == [True, True, False]
    assert [layer._disable_adapters for layer in layers[:3]] == [False, True, False]


def test_a_share_of_the_batches_and_nothing_else_changes(go: Any, content: Any, tmp_path: Path) -> None:
    calls: list[CaptureProgress] = []
    whole: Run = go("whole.zarr")
    run: Run = go("run.zarr", ablate="layers", ablate_share=0.3, progress=calls.append)
    n_batches = len([call for call in calls if call.stage == "capture"])
    n_chosen = int(np.ceil(0.3 * n_batches))
    reported = [(call.done, call.total, call.units) for call in calls if call.stage == "ablate"]
    assert reported == [(done, 2 * n_chosen, "passes") for done in range(1, 2 * n_chosen + 1)]
    measured = run.attributes["measured"]
    assert (measured["ablation_passes"], whole.attributes["measured"].get("ablation_passes")) == (2 * n_chosen, None)
    assert measured["stages"]["ablate"] > 0
    values = run.ablation().values
    kept = ~np.isnan(values[:, 0])
    assert kept.sum() <= 400 * n_chosen
    assert (np.isnan(values) == ~kept[:, None]).all()
    assert (np.diff(np.concatenate([[False], kept, [False]])).sum()) // 2 <= n_chosen  # whole batches
    ours = content(tmp_path / "run.zarr")
    for name, held in content(tmp_path / "whole.zarr").items():
        assert name == "zarr.json" or name.startswith("rows/digest/") or ours[name] == held, name
    assert "ablate" not in whole.attributes["provenance"]["settings"]  # as of a run before there was one
    assert run.attributes["provenance"]["settings"]["ablate_share"] == 0.3


@pytest.mark.parametrize("stream", slow_but(["adapted", "pair"], "adapted"))
def test_a_capture_that_goes_on_measures_the_same(go: Any, content: Any, tmp_path: Path, stream: str) -> None:
    """Batches lie across rows, and are taken again for what is missing."""
    settings = {"ablate": "kinds", "ablate_share": 0.7, "stream": stream}

    def fail(progress: CaptureProgress) -> None:
        if progress.stage == "ablate" and progress.done == 45:
            raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        go("run.zarr", progress=fail, **settings)
    begun = open_run(tmp_path / "run.zarr")
    assert 0 < begun.committed_rows.sum() < begun.n_rows
    go("run.zarr", **settings)
    whole = go("whole.zarr", **settings)
    assert content(tmp_path / "run.zarr") == content(tmp_path / "whole.zarr")
    assert np.isfinite(whole.ablation().values).any(axis=0).all()


def test_chosen_components_alone_are_parts(make: Any) -> None:
    run: Run = make(component=("*.0.*_proj",), ablate="kinds", ablate_share=1.0, states="none")
    whole: Run = make("whole.zarr", ablate="components", ablate_share=1.0)
    part = whole.ablation().sel(part=[path for path in whole.component_paths if ".layers.0." in path])
    assert run.ablation()["part"].values.tolist() == [path.rpartition(".")[2] for path in part["part"].values]
    # Of one layer each kind is one component; what isn't captured stays in the model.
    np.testing.assert_array_equal(run.ablation().values, part.values)


def test_what_can_not_be_ablated_is_refused(tiny_items: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    given = {"model": "m", "adapter": "a", "data": "d", "out": "o"}
    with pytest.raises(ValueError, match="`ablate` is 'heads'; allowed are 'components', 'layers', 'kinds'"):
        CaptureConfig(**given, ablate="heads")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`ablate` is 'kinds', but in stream 'base' no adapter is on"):
        CaptureConfig(**given, ablate="kinds", stream="base")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`ablate_share` is 0; it must be above 0"):
        CaptureConfig(**given, ablate="kinds", ablate_share=0)  # type: ignore[arg-type]
    model = adapt(BertForMaskedLM(BertConfig(**BERT)).eval(), target_modules=["query"])
    with pytest.raises(ValueError, match="`ablate` is 'layers', but BertForMaskedLM doesn't predict the next token"):
        capture(
            model, tiny_items, tmp_path / "r", tokenizer=tiny_tokenizer, score=False, ablate="layers", progress=False
        )
    assert not (tmp_path / "r").exists()
