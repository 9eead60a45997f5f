"""A capture of some components: their numbers are those of a capture of all, and nothing else is hooked."""

from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig

from lorascope.capture.models.refusal import lora_layers
from lorascope.capture.reforward import reforward
from lorascope.stores import Run, StoreError, verify

PATTERN = "*.1.*q_proj"


@pytest.mark.parametrize("stream", ["base", "pair"])
def test_their_numbers_are_those_of_a_capture_of_all(make: Any, adapted: Any, tiny_tokenizer: Any, stream: str) -> None:
    hooked: set[str] = set()

    def look(now: Any) -> None:
        hooked.update(path for path, layer in lora_layers(adapted).items() if layer.base_layer._forward_hooks)

    whole: Run = make("whole.zarr", stream=stream)
    part: Run = make(
        "part.zarr", stream=stream, component=(PATTERN, "model.layers.0.mlp.up_proj"), model=adapted, progress=look
    )
    expected = [p for p in whole.component_paths if fnmatchcase(p, PATTERN) or p == "model.layers.0.mlp.up_proj"]
    assert list(part.component_paths) == expected
    assert len(expected) == 2
    assert hooked == set(expected)
    places = [whole.component_paths.index(path) for path in expected]
    for place, path in enumerate(expected):
        assert np.array_equal(part.base(path).values, whole.base(path).values)
        assert np.array_equal(part.delta(path).values, whole.delta(path).values)
        assert np.array_equal(part.js().values[:, place], whole.js().values[:, places[place]])
    assert np.array_equal(part.samples["ce"].values, whole.samples["ce"].values)
    assert part.attributes["fingerprint"] != whole.attributes["fingerprint"]
    assert verify(part.path).ok
    found = reforward(str(part.path), 2, model=adapted, tokenizer=tiny_tokenizer)
    assert found.n_equal == found.n_vectors > 0


def test_what_no_adapter_or_not_every_adapter_changes_is_refused(make: Any, adapted: Any) -> None:
    with pytest.raises(
        StoreError,
        match="'layers.1.q_proj' fits none of the 14 components that the adapter changes; did you mean "
        r"'model.layers.1.self_attn.q_proj'",
    ):
        make(component="layers.1.q_proj")
    with torch.random.fork_rng():
        adapted.add_adapter("other", LoraConfig(r=3, target_modules=["down_proj"], init_lora_weights=False))
    with pytest.raises(ValueError, match=r"`component` is \['\*.q_proj'\], and adapter 'other' changes none of these"):
        make(model=adapted, stream="base", component=("*.q_proj",))
