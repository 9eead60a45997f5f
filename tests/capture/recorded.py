"""What a `Recorder` takes of one batch, kept in memory, and the same computed without it."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from lorascope.capture.buffers.target import Meter
from lorascope.capture.models.branches import lora_b, lora_bias
from lorascope.capture.models.components import LoraComponent, find_components
from lorascope.capture.models.weights import plain_path
from lorascope.capture.recording.hooks import Recorder
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.encoded import pad, plan_batches


class Kept:
    """A target that keeps every token of what it is given."""

    def __init__(self, shape: tuple[int, int], every: int = 1) -> None:
        self.shape = shape
        self.flat = np.arange(shape[0] * shape[1])
        self.measured_tokens = torch.arange(0, shape[0] * shape[1], every)
        self.arrays: dict[str, torch.Tensor] = {}
        self.factors: dict[tuple[str, int], torch.Tensor] = {}
        self.measured: dict[tuple[str, int], torch.Tensor] = {}
        self.meter = Meter()

    def take(self, output: torch.Tensor) -> torch.Tensor:
        return output

    def take_measured(self, output: torch.Tensor) -> torch.Tensor:
        return output.index_select(0, self.measured_tokens)

    def token_index(self, device: torch.device, *, measured: bool) -> torch.Tensor | None:
        return self.measured_tokens if measured and len(self.measured_tokens) < len(self.flat) else None

    def select_measured(self, values: torch.Tensor) -> torch.Tensor:
        return self.take_measured(values)

    def put(self, path: str, output: torch.Tensor, columns: slice | None = None) -> None:
        if columns is None:
            assert path not in self.arrays, f"{path} is put twice"
            self.arrays[path] = output.clone()
        else:
            self.factors[path, columns.start] = output.clone()

    def has_array(self, path: str) -> bool:
        return path.startswith("experts/")

    def put_values(self, path: str, values: torch.Tensor, column: int = 0, *, measured: bool = False) -> None:
        assert len(values) == len(self.measured_tokens if measured else self.flat)
        self.measured[path, column] = values.clone()


class Recorded(NamedTuple):
    """One batch, and how it was recorded."""

    kept: Kept
    recorder: Recorder
    components: Mapping[str, Sequence[LoraComponent]]

    def delta(self, adapter: str, path: str) -> torch.Tensor:
        """An adapter's delta, from its factor where that is what is kept."""
        whole = self.kept.arrays.get(f"adapters/{adapter}/delta/{path}")
        if whole is not None:
            return whole
        component = next(c for c in self.components[adapter] if c.path == path)
        start = starts(self.components)[adapter][axis(self.components).index(path)]
        factor = self.kept.factors[f"adapters/{adapter}/factor", start].float()
        weight, bias = weights_of(component, adapter)
        return nn.functional.linear(factor, weight, bias) * component.scaling


def weights_of(component: LoraComponent, adapter: str) -> Any:
    weight, bias = lora_b(component.module, adapter), lora_bias(component.module, adapter)
    return torch.from_numpy(weight), None if bias is None else torch.from_numpy(bias)


def axis(components: Mapping[str, Sequence[LoraComponent]]) -> list[str]:
    union = {c.path: c.order for found in components.values() for c in found}
    return sorted(union, key=lambda path: union[path])


def starts(components: Mapping[str, Sequence[LoraComponent]]) -> dict[str, list[int]]:
    """First columns of the packed factor, if every factor is kept."""
    found = {}
    for adapter, own in components.items():
        ranks = {c.path: c.rank for c in own if c.delta_source == "factor"}
        column, places = 0, []
        for path in axis(components):
            places.append(column if path in ranks else -1)
            column += ranks.get(path, 0)
        found[adapter] = places
    return found


def record(
    model: Any, inputs: Mapping[str, torch.Tensor], *, adapters: Sequence[str] = ("default",), **options: Any
) -> Recorded:
    """All passes of a recorder over one batch."""
    skip, every = options.pop("skip", ()), options.pop("every", 1)
    components = {name: find_components(model, name, skip=skip) for name in adapters}
    recorder = Recorder(components, factor_start=options.pop("factor_start", starts(components)), **options)
    kept = Kept(tuple(inputs["input_ids"].shape), every)
    with recorder.attached():
        for pass_ in recorder.passes:
            with pass_.enabled(model), recorder.recording(kept, pass_), torch.inference_mode():  # type: ignore[arg-type]
                model(**inputs)
    return Recorded(kept, recorder, components)


def padded_batches(items: Any, tokenizer: Any, batch_tokens: int) -> Iterator[tuple[slice, dict[str, Any]]]:
    """Samples of each batch of a capture of these items, and the model's inputs."""
    samples = encode_items(items, tokenizer, max_length=256, window_tokens=64)
    for batch in plan_batches([len(sample.token_ids) for sample in samples], batch_tokens=batch_tokens):
        input_ids, mask = pad(samples[batch])
        yield batch, {"input_ids": input_ids, "attention_mask": mask, "use_cache": False}


def outputs_of(model: Any, inputs: Mapping[str, Any], paths: Sequence[str]) -> dict[str, torch.Tensor]:
    """Outputs of these modules in one bare pass, (flat token, feature), by the plain model's paths."""
    return _seen(model, inputs, paths, lambda args, output: output.clone().flatten(0, -2))


def inputs_of(model: Any, inputs: Mapping[str, Any], paths: Sequence[str]) -> dict[str, torch.Tensor]:
    """Inputs of these modules in one bare pass, (sequence, position, ...), by the plain model's paths."""
    return _seen(model, inputs, paths, lambda args, output: args[0].clone())


def _seen(model: Any, inputs: Mapping[str, Any], paths: Sequence[str], take: Callable[[Any, Any], Any]) -> Any:
    seen: dict[str, torch.Tensor] = {}
    modules = {plain_path(name): module for name, module in model.named_modules()}
    handles = [
        modules[path].register_forward_hook(
            lambda m, args, output, path=path: seen.__setitem__(path, take(args, output))
        )
        for path in paths
    ]
    with torch.inference_mode():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return seen


def adapt(model: Any, **options: Any) -> PeftModel:
    """A copy of the model with a trained-looking adapter on it, in eval mode."""
    lora = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], **options})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapted = get_peft_model(copy.deepcopy(model), lora)
        stir(adapted)
    return adapted.eval()


def stir(model: Any) -> None:
    """Give every weight of every adapter some value."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "lora_embedding" in name or "trainable_tokens_delta" in name:
            nn.init.normal_(parameter.data, std=0.1)
        elif "lora_magnitude" in name:
            parameter.data.mul_(torch.empty_like(parameter).uniform_(0.8, 1.2))
        elif "modules_to_save" in name:
            parameter.data.add_(0.02 * torch.randn_like(parameter))
