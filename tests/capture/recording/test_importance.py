"""Gradients by scales on an adapter's directions: against differences, exact KL and a model that has the scale."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora import Embedding

from lorascope.capture.errors import CaptureError
from lorascope.capture.models.components import find_components
from lorascope.capture.models.passes import disabled_adapters
from lorascope.capture.recording import importance
from lorascope.capture.samples.encoded import TEXT, EncodedSample

from ..recorded import adapt
from .test_models import decoder

CPU = torch.device("cpu")
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", {}),
    "GPT-2, Conv1D and embedding": ("gpt2", {}),
    "Qwen3": ("qwen3", {"r": 40}),  # more than the narrowest layer has features
    "OPT, with bias": ("opt", {"lora_bias": True}),
    "GPT-NeoX, DoRA": ("gpt_neox", {"use_dora": True}),
    "Phi-3, saved head": ("phi3", {"target_modules": ["qkv_proj"], "modules_to_save": ["lm_head"]}),
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings"),
]


def adapted(name: str, **options: Any) -> Any:
    """A tiny model in float64 with an adapter; transformers' RMSNorm, which rounds to float32, is torch's."""
    model, own = decoder(name)
    for path, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            norm = torch.nn.RMSNorm(module.weight.shape[0], eps=module.variance_epsilon)
            norm.weight = module.weight
            model.set_submodule(path, norm)
    return adapt(model, **{**own, **options}).double()


def texts(*lengths: int) -> list[EncodedSample]:
    rng = np.random.default_rng(7)
    return [
        EncodedSample(
            id=str(number),
            dataset="d",
            split="s",
            prompt="text",
            token_ids=rng.integers(3, 290, length),
            roles=np.full(length, TEXT, np.uint8),
        )
        for number, length in enumerate(lengths)
    ]


def measured(
    model: Any, samples: Sequence[EncodedSample], *, draws: int, seed: int = 3
) -> tuple[np.ndarray, list[Any], np.ndarray]:
    """Gradients of one batch (pass, direction), the scaled deltas, and the labels of each draw (draw, place)."""
    scaled = [importance._ScaledDelta(c, "default") for c in find_components(model, "default")]
    numbered = list(enumerate(samples))
    with importance._scaling(model, scaled):
        gradients = importance._gradients(model, numbered, CPU, scaled, draws=draws, seed=seed)
    logits = importance.run_pass(model, samples, CPU).detach()
    labels = [
        torch.cat([g[row, : len(s.token_ids)].argmax(-1) for row, s in enumerate(samples)]).numpy()
        for g in importance._label_gradients(logits, numbered, draws, seed)
    ]
    return gradients, scaled, np.stack(labels)


def log_probabilities(model: Any, samples: Sequence[EncodedSample]) -> list[torch.Tensor]:
    """Log softmax of a plain pass over each sample alone, (place, token id)."""
    with torch.no_grad():
        return [model(input_ids=torch.from_numpy(s.token_ids)[None]).logits[0].log_softmax(-1) for s in samples]


def changed(model: Any, delta: Any, number: int, by: float) -> Any:
    """A copy of the model in which a direction of a component, or all that it adds, is multiplied by 1 + `by`."""
    scaled = copy.deepcopy(model)
    layer: Any = scaled.get_base_model().get_submodule(delta.path)
    if delta.columns is None:

        def stretch(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor | None:
            if module._disable_adapters:
                return None
            with disabled_adapters([module]):
                return output + by * (output - module(*args))

        layer.register_forward_hook(stretch)
    elif number < 0:
        layer.lora_B["default"].bias.data *= 1 + by
    elif isinstance(layer, Embedding):
        b, a = layer.lora_embedding_B["default"].data, layer.lora_embedding_A["default"].data
        u = torch.linalg.svd(b @ a)[0][:, number]
        b += by * torch.outer(u, u @ b)
    else:
        b, a = layer.lora_B["default"].weight.data, layer.lora_A["default"].weight.data
        u = torch.linalg.svd(b @ a)[0][:, number]
        b += by * torch.outer(u, u @ b)
    return scaled


def summed(model: Any, samples: Sequence[EncodedSample], labels: np.ndarray) -> np.ndarray:
    """Sum of each sample's log-probabilities of the labels (draw, place) of both samples, by sample and draw."""
    stops = np.cumsum([len(sample.token_ids) for sample in samples])[:-1]
    by_sample = zip(log_probabilities(model, samples), np.split(labels, stops, axis=1), strict=True)
    return np.array([float(v[range(len(v)), draw].sum()) for v, own in by_sample for draw in own])


@pytest.mark.parametrize(("name", "options"), CASES.values(), ids=CASES)
def test_gradients_are_those_of_finite_differences(name: str, options: dict[str, Any]) -> None:
    """Central differences of the labels' log-probabilities, of a model whose weights are scaled by hand."""
    model, samples = adapted(name, **options), texts(9, 14)
    gradients, scaled, labels = measured(model, samples, draws=2)
    assert (gradients.dtype, gradients.shape) == (np.float32, (4, sum(len(delta.numbers) for delta in scaled)))
    column, h = 0, 1e-4
    for delta in scaled:
        n_values = int((delta.sizes[delta.numbers >= 0] > 1e-9).sum()) if delta.columns is not None else 1
        own = gradients[:, column : column + len(delta.numbers)]
        column += len(delta.numbers)
        np.testing.assert_allclose(own[:, delta.numbers >= n_values], 0, atol=1e-9)
        for number in {0, n_values - 1, *delta.numbers[delta.numbers < 0]}:
            up, down = (summed(changed(model, delta, number, by), samples, labels) for by in (h, -h))
            np.testing.assert_allclose(
                own[:, list(delta.numbers).index(number)], (up - down) / (2 * h), rtol=1e-5, atol=1e-7
            )


def test_half_the_information_is_the_divergence_of_a_small_scale() -> None:
    """KL(adapted || scaled by s) is (s - 1)^2 times importance; the mean over s = 0.95 and 1.05 has no cubic term.

    The fourth-order term is some (s - 1)^2 of it, 0.3 %; the rest is the error of the mean over draws, known from
    their spread.
    """
    model, samples = adapted("llama", target_modules=["v_proj", "down_proj"]), texts(25)
    gradients, scaled, _ = measured(model, samples, draws=400)
    before = log_probabilities(model, samples)[0]
    stops = np.cumsum([len(delta.numbers) for delta in scaled])[:-1]
    for delta, own in zip(scaled, np.split(gradients, stops, axis=1), strict=True):
        by_draw = own.sum(axis=1, dtype=np.float64) ** 2 / (2 * 25)
        kl = []
        for by in (-0.05, 0.05):
            twin = copy.deepcopy(model)
            twin.get_base_model().get_submodule(delta.path).set_scale("default", 1 + by)
            after = log_probabilities(twin, samples)[0]
            kl.append(float((before.exp() * (before - after)).sum(-1).mean()))
        error = by_draw.std() / np.sqrt(400)
        assert error < 0.1 * by_draw.mean()
        assert abs(np.mean(kl) / 0.05**2 - by_draw.mean()) < 3.5 * error + 0.01 * by_draw.mean()


def test_labels_are_drawn_from_the_predictions() -> None:
    logits = torch.tensor([[[0.0, 2.0, -1.0, -torch.inf]], [[1.0, 1.0, 1.0, 3.0]]])
    gradients = [g.clone() for g in importance._label_gradients(logits, list(enumerate(texts(1, 1))), 4000, 0)]
    p = logits.double().softmax(-1)
    for gradient in gradients[:50]:
        label = (gradient > 0).double()
        assert label.sum(-1).tolist() == [[1], [1]]
        torch.testing.assert_close(gradient.double(), label - p, rtol=0, atol=1e-6)
    counts = torch.stack(gradients).gt(0).sum(0).double()
    # A share's error is sqrt(p (1 - p) / 4000).
    assert ((counts / 4000 - p).abs() <= 4 * (p * (1 - p) / 4000).sqrt()).all()
    both = torch.stack(gradients)[:, :, 0].gt(0).double()
    together = torch.einsum("dk,dl->kl", both[:, 0], both[:, 1]) / 4000  # of the two samples, which are independent
    assert (together - p[0, 0, :, None] * p[1, 0]).abs().max() < 4 * 0.5 / np.sqrt(4000)


def test_padding_and_neighbours_change_nothing() -> None:
    model, (short, long) = adapted("gpt_neox", lora_bias=True), texts(6, 19)
    together, *_ = measured(model, [short, long], draws=3)
    alone, *_ = measured(model, [short], draws=3)
    np.testing.assert_allclose(together[:3], alone, rtol=1e-6, atol=1e-9)
    other_seed, *_ = measured(model, [short], draws=3, seed=4)
    assert not np.allclose(alone, other_seed, rtol=0.1)


def state_of(model: Any) -> list[Any]:
    return [
        *((module.training, len(module._forward_hooks), "forward" in module.__dict__) for module in model.modules()),
        *((parameter.requires_grad, parameter.grad is None) for parameter in model.parameters()),
    ]


def test_the_model_is_as_before_also_after_an_error() -> None:
    model, samples = adapted("llama"), texts(5)
    model.train()
    before, hooks = state_of(model), len(torch.nn.modules.module._global_forward_hooks)
    logits = model(input_ids=torch.arange(3, 9)[None]).logits
    with torch.no_grad():
        measured(model, samples, draws=1)
    layer = model.get_base_model().model.layers[1].mlp.act_fn
    handle = layer.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measured(model, samples, draws=1)
    handle.remove()
    assert (state_of(model), len(torch.nn.modules.module._global_forward_hooks)) == (before, hooks)
    assert torch.equal(model(input_ids=torch.arange(3, 9)[None]).logits, logits)


def test_a_layer_that_stops_gradients_is_refused() -> None:
    """As a kernel for quantised weights without a backward pass would: the others' gradients would be too small."""
    model = adapted("llama")

    class NoBackward(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return super().forward(x)

    model.get_base_model().model.layers[1].mlp.up_proj.base_layer.__class__ = NoBackward
    with pytest.raises(
        CaptureError, match="no gradient passes a NoBackward, .* leave `importance` out, or load the model"
    ):
        measured(model, texts(5), draws=1)


def test_gradients_that_are_not_finite_are_refused() -> None:
    model = adapted("llama")
    model.get_base_model().lm_head.weight.data[0, 0] = torch.inf
    with pytest.raises(CaptureError, match="sample '0' or one after it aren't all finite; in float16 they overflow"):
        measured(model, texts(5), draws=1)


def test_bfloat16_gives_about_the_same() -> None:
    exact, *_ = measured(adapted("llama"), texts(25), draws=8)
    rounded, *_ = measured(adapted("llama").bfloat16(), texts(25), draws=8)
    information = [(values.astype(np.float64) ** 2).mean(0) for values in (exact, rounded)]
    assert np.corrcoef(*information)[0, 1] > 0.95  # some labels differ, since uniforms fall between the two
    assert information[1].sum() == pytest.approx(information[0].sum(), rel=0.2)


def test_directions_are_singular_ones() -> None:
    """Scaled one by one they add up to the whole; each is orthogonal to the others, values descend."""
    model = adapted("llama", target_modules=["q_proj"])
    (delta, *_) = measured(model, texts(5), draws=1)[1]
    layer = model.get_base_model().get_submodule(delta.path)
    weight = (layer.get_delta_weight("default")).numpy(force=True)
    np.testing.assert_allclose(delta.sizes, np.linalg.svd(weight)[1][:4], rtol=1e-6)
    columns = delta.columns.numpy()
    np.testing.assert_allclose(columns.T @ columns, np.eye(4), atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(columns.T @ weight, axis=1), delta.sizes, rtol=1e-6)
