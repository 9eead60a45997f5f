"""`changes` of a real capture: a tiny model with two adapters, compared with each other and with the store."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lorascope.analyze import changes
from lorascope.stores import StoreError


def test_changes_of_two_real_adapters(make: Any, adapted: Any, tiny_adapter: Path) -> None:
    model = copy.deepcopy(adapted)
    model.load_adapter(str(tiny_adapter), "other")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B.other" in name:
                parameter.mul_(-2)
    run = make("run.zarr", model=model, stream="base", states="none")
    with pytest.raises(StoreError, match="name one of"):
        changes(run)
    results = {name: changes(run, adapter=name) for name in ("default", "other")}
    for name, result in results.items():
        stored = run.changes(name)
        kl = stored["kl_adapted_base"].values.astype(float)
        assert result.attrs["adapter"] == name
        assert result.attrs["kl_adapted_base"] == pytest.approx(np.average(kl, weights=run.tokens["weight"]))
        assert result.attrs["kl"] == pytest.approx(np.average(run.reduction("kl", name), weights=run.tokens["weight"]))
        n_changed = int((stored["adapted_choice"] != stored["base_choice"]).sum())
        assert result["choices/count"].values.sum() == n_changed > 0
        assert result["roles/n"].values.sum() == run.n_tokens
        assert (result["tokens/n_samples"] >= 3).all()
        assert set(result["tokens/text"].values) <= set(run.vocabulary())
    assert results["default"].attrs["kl"] != results["other"].attrs["kl"]
