"""Adapters compared on data: against transformers' and torch's own losses, one sample at a time."""

import copy
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from lorascope.analyze.adapters.truncated import truncatable_branches, write_truncated
from lorascope.capture import AdapterError, compare_adapters, read_items
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.scoring import score

from ..tiny import llama


@pytest.fixture
def folders(tiny_adapter: Path, tmp_path: Path) -> dict[str, Path]:
    report, branches = truncatable_branches(tiny_adapter, tmp_path / "cut")
    write_truncated(tiny_adapter, tmp_path / "cut", report, [np.arange(1)] * len(branches))
    return {"whole": tiny_adapter, "cut": tmp_path / "cut"}


def test_each_number_is_that_of_one_sample_alone(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Any, tiny_tokenizer: Any, tiny_items: Any, folders: dict[str, Path]
) -> None:
    monkeypatch.setattr(sys.modules[compare_adapters.__module__], "BATCH_TOKENS", 150)
    found = compare_adapters(copy.deepcopy(tiny_model), tiny_tokenizer, tiny_items, folders)
    assert found["adapter"].values.tolist() == ["base", "whole", "cut"]
    assert found["sample"].values.tolist() == [f"tiny/{item.id}" for item in tiny_items]
    samples = encode_items(tiny_items, tiny_tokenizer, max_length=256, window_tokens=32)
    assert found.attrs["n_tokens"] == sum(len(sample.token_ids) for sample in samples)
    models = [tiny_model, *(PeftModel.from_pretrained(copy.deepcopy(tiny_model), str(one)) for one in folders.values())]
    log_p = []
    for model, name in zip(models, found["adapter"].values, strict=True):
        one = score(model.eval(), samples, batch_tokens=1)
        np.testing.assert_allclose(found["ce"].sel(adapter=name), one.ce, rtol=1e-5)
        np.testing.assert_array_equal(found["correct"].sel(adapter=name), one.correct)
        with torch.inference_mode():
            log_p.append(
                [model(torch.from_numpy(s.token_ids)[None]).logits[0].double().log_softmax(-1) for s in samples]
            )
    assert not found["kl"].sel(adapter="whole").any()
    for row, name in ((0, "base"), (2, "cut")):
        pairs = zip(log_p[1], log_p[row], strict=True)
        expected = [float((p.exp() * (p - q)).sum(-1).mean()) for p, q in pairs]
        np.testing.assert_allclose(found["kl"].sel(adapter=name), expected, rtol=1e-4)
        assert min(expected) > 1e-6


def test_the_model_is_given_back_plain(
    tiny_model: Any, tiny_tokenizer: Any, tiny_items: Any, folders: dict[str, Path]
) -> None:
    names = [name for name, _ in tiny_model.named_modules()]
    first = compare_adapters(tiny_model, tiny_tokenizer, tiny_items, folders)
    assert [name for name, _ in tiny_model.named_modules()] == names
    again = compare_adapters(tiny_model, tiny_tokenizer, tiny_items, {"cut": folders["cut"], "whole": folders["whole"]})
    np.testing.assert_array_equal(again["ce"].sel(adapter=["base", "whole", "cut"]), first["ce"])


@pytest.mark.parametrize("fails", [False, True])
def test_weights_and_flags_are_its_own_again(
    tiny_model: Any, tiny_tokenizer: Any, tiny_items: Any, tmp_path: Path, *, fails: bool
) -> None:
    """Also where an adapter has trained weights in the place of a head, and after an error."""
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], init_lora_weights=False)
    get_peft_model(copy.deepcopy(tiny_model), config).save_pretrained(tmp_path / "head", save_embedding_layers=False)
    tiny_model.train().requires_grad_(requires_grad=True)
    modules, parameters = dict(tiny_model.named_modules()), dict(tiny_model.named_parameters())

    def fail(done: int, total: int) -> None:
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away") if fails else nullcontext():
        compare_adapters(
            tiny_model, tiny_tokenizer, tiny_items, {"head": tmp_path / "head"}, progress=fail if fails else None
        )
    again = dict(tiny_model.named_modules())
    assert again.keys() == modules.keys()
    assert all(again[name] is module and module.training for name, module in modules.items())
    assert all(one is parameters[name] and one.requires_grad for name, one in tiny_model.named_parameters())
    assert not hasattr(tiny_model, "peft_config")


def test_of_texts_nothing_is_a_hit(
    tiny_model: Any, tiny_tokenizer: Any, tiny_items: Any, text: Path, folders: dict[str, Path]
) -> None:
    reported: list[tuple[int, int]] = []
    items = [*read_items(text), *tiny_items[:2]]
    found = compare_adapters(
        tiny_model, tiny_tokenizer, items, folders, progress=lambda done, total: reported.append((done, total))
    )
    n_windows = found.sizes["sample"] - 2
    assert n_windows > 10  # of as many tokens as the model's context has, fewer than are asked for
    assert [name.split("/")[1] for name in found["sample"].values][n_windows:] == ["a", "b"]
    is_text = np.tile(np.arange(n_windows + 2) < n_windows, (3, 1))
    np.testing.assert_array_equal(np.isnan(found["correct"]), is_text)
    assert np.isfinite(found["ce"]).all()
    assert [done for done, _ in reported] == list(range(1, reported[0][1] + 1))


def test_refused(tiny_model: Any, tiny_tokenizer: Any, tiny_items: Any, folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="the model is a LlamaModel; only causal ones predict the next token"):
        compare_adapters(tiny_model.model, tiny_tokenizer, tiny_items, folders)
    other = llama(len(tiny_tokenizer), hidden_size=16)
    with pytest.raises(AdapterError, match="its weights have other shapes"):
        compare_adapters(other, tiny_tokenizer, tiny_items, folders)
