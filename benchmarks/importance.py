"""Importance compared with ablation: `python benchmarks/importance.py FOLDER NAME=ADAPTER...` prints Markdown tables.

On a few of the demo's held-out questions each component, layer and kind of modules of an adapter of
SmolLM2-135M-Instruct is removed in turn, and importance is computed on the same questions, both in plain PyTorch and
not by a capture: from a batch's graph, one backward pass for each draw of labels gives the gradients of all components.
Passes without a part begin at its layer, from the states of the whole adapter there. What is computed is kept in the
folder and not computed again. Errors are those of a bootstrap over questions, which draws both sides together.
"""

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rounds import print_table
from scipy.stats import spearmanr

from lorascope.capture import load_model, read_items
from lorascope.capture.models.adapter import attach_adapters
from lorascope.capture.models.passes import Pass, disabled_adapters, isolated
from lorascope.capture.models.refusal import lora_layers
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.encoded import EncodedSample, pad
from lorascope.study.demo_inputs import demo_model, facts_path

EVERY = 13
"""Every 13th test question: neighbours in the file may ask alike."""
BATCH = 4
N_BOOTSTRAP = 2000
PARTS = ("component", "layer", "kind")

Measured = Mapping[str, Mapping[str, tuple[list[str], np.ndarray, np.ndarray]]]
"""Adapter -> kind of part -> names, importance (draw, question, part) and ablation (question, part), nat a token."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("adapters", nargs="+", help="NAME=FOLDER of each")
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/importance.csv"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    measured = {}
    for name, _, adapter in (text.partition("=") for text in arguments.adapters):
        path = arguments.folder / f"{name}.npz"
        if not path.exists():
            np.savez(path, **measure(adapter, arguments.questions, arguments.draws))
        measured[name] = by_part(np.load(path))
    print_agreement(measured)
    print_draws(measured)
    print_sizes(measured)
    write_csv(arguments.csv, measured)


def measure(adapter: str, n_questions: int, n_draws: int) -> dict[str, np.ndarray]:
    """Gradients (draw, question, component), ablation (question, part), and what their axes mean."""
    model, tokenizer = load_model(str(demo_model()), dtype="float32")
    adapted = attach_adapters(model, {"default": adapter})
    adapted.requires_grad_(False)
    items = read_items(facts_path("test"))[::EVERY][:n_questions]
    samples = encode_items(items, tokenizer, max_length=2048, window_tokens=512)
    batches = [samples[first : first + BATCH] for first in range(0, len(samples), BATCH)]
    with isolated(adapted, torch.device("cpu")), Pass("adapted", "default").enabled(adapted):
        gradients = [draw_gradients(adapted, batch, n_draws, seed) for seed, batch in enumerate(batches)]
        rows = [list(removals(adapted, batch)) for batch in batches]
    return {
        "component": np.array(list(lora_layers(adapted))),
        "n_tokens": np.array([len(sample.token_ids) for sample in samples]),
        "gradient": np.concatenate(gradients, axis=1),
        "part": np.array([part for part, *_ in rows[0]]),
        "name": np.array([name for _, name, _ in rows[0]]),
        "kl": np.concatenate([np.array([kl for *_, kl in row]).T for row in rows]),
    }


def draw_gradients(adapted: Any, batch: Sequence[EncodedSample], n_draws: int, seed: int) -> np.ndarray:
    """Derivatives of the drawn labels' summed log-probability by a scale on each component, (draw, question, part)."""
    model, ids, mask = adapted.get_base_model(), *pad(batch)
    outputs: list[torch.Tensor] = []
    hooks = [
        layer.lora_B["default"].register_forward_hook(lambda module, inputs, output: outputs.append(output))
        for layer in lora_layers(adapted).values()
    ]
    with torch.enable_grad():
        hidden = model.model.embed_tokens(ids).requires_grad_()
        log_p = model(inputs_embeds=hidden, attention_mask=mask, use_cache=False).logits.log_softmax(-1)
    for hook in hooks:
        hook.remove()
    generator, gradients = torch.Generator().manual_seed(seed), []
    for _ in range(n_draws):
        labels = torch.multinomial(log_p.detach().exp().flatten(0, 1), 1, generator=generator).view_as(ids)
        total = (log_p.gather(-1, labels[..., None])[..., 0] * mask).sum()
        by_output = torch.autograd.grad(total, outputs, retain_graph=True)
        products = [(g.double() * output.detach()).sum((1, 2)) for g, output in zip(by_output, outputs, strict=True)]
        gradients.append(torch.stack(products, 1).numpy())
    return np.stack(gradients)


@torch.inference_mode()
def removals(adapted: Any, batch: Sequence[EncodedSample]) -> Iterator[tuple[str, str, list[float]]]:
    """Yield kind and name of each part that is removed, and each question's mean KL(adapted || without the part)."""
    model = adapted.get_base_model()
    inner, layers, modules = model.model, model.model.layers, dict(lora_layers(adapted))
    ids, mask = pad(batch)
    states: dict[int, torch.Tensor] = {}

    def log_probabilities(hidden: torch.Tensor, first: int) -> torch.Tensor:
        """Of the next token, from the input of a layer on."""
        inner.layers = layers[first:]
        try:
            output = model(inputs_embeds=hidden, attention_mask=mask, use_cache=False)
        finally:
            inner.layers = layers
        return output.logits.double().log_softmax(-1)

    def keep_input(place: int) -> Callable[[Any, Any], None]:
        return lambda module, inputs: states.__setitem__(place, inputs[0])

    hooks = [layer.register_forward_pre_hook(keep_input(place)) for place, layer in enumerate(layers)]
    log_p = log_probabilities(inner.embed_tokens(ids), 0)
    for hook in hooks:
        hook.remove()
    for part in PARTS:
        for name, paths in groups_of(modules, part).items():
            first = min(layer_of(path) for path in paths)
            with disabled_adapters([modules[path] for path in paths]):
                log_q = log_probabilities(states[first], first)
            kl = (log_p.exp() * (log_p - log_q)).sum(-1)
            yield part, name, [float(row[: len(s.token_ids)].mean()) for row, s in zip(kl, batch, strict=True)]


def groups_of(paths: Sequence[str] | Mapping[str, Any], part: str) -> dict[str, list[str]]:
    """Name of a part -> its components."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        name = {"component": path, "layer": str(layer_of(path)), "kind": path.split(".")[-1]}[part]
        groups.setdefault(name, []).append(path)
    return groups


def layer_of(path: str) -> int:
    return int(path.split(".")[2])


def by_part(stored: Mapping[str, np.ndarray]) -> dict[str, tuple[list[str], np.ndarray, np.ndarray]]:
    """The values of an adapter of `Measured`."""
    paths, values = stored["component"].tolist(), {}
    for part in dict.fromkeys(stored["part"].tolist()):
        names = stored["name"][stored["part"] == part].tolist()
        groups = groups_of(paths, part)
        sums = [stored["gradient"][..., [paths.index(path) for path in groups[name]]].sum(-1) for name in names]
        importance = np.stack(sums, axis=-1) ** 2 / (2 * stored["n_tokens"][:, None])
        values[part] = names, importance, stored["kl"][:, stored["part"] == part]
    return values


def agreement(importance: np.ndarray, ablation: np.ndarray) -> tuple[float, float, float, float]:
    """Rank correlation; shares of the summed KL in the first tenth of each order; importance's sum over ablation's."""
    n = max(1, len(ablation) // 10)
    tenths = [ablation[np.argsort(-order)[:n]].sum() / ablation.sum() for order in (importance, ablation)]
    return spearmanr(importance, ablation)[0], *tenths, importance.sum() / ablation.sum()


def print_agreement(measured: Measured) -> None:
    rows = []
    for adapter, parts in measured.items():
        for part, (names, by_draw, ablation) in parts.items():
            rng, n, importance = np.random.default_rng(0), len(ablation), by_draw.mean(axis=0)
            drawn = [
                agreement(importance[d].mean(0), ablation[d].mean(0)) for d in rng.integers(n, size=(N_BOOTSTRAP, n))
            ]
            values = agreement(importance.mean(0), ablation.mean(0))
            scales, digits, units = (1, 100, 100, 1), (3, 1, 1, 2), ("", " %", " %", "")
            texts = [
                f"{scale * value:.{d}f} ± {scale * error:.{d}f}{unit}"
                for value, error, scale, d, unit in zip(
                    values, np.std(drawn, axis=0, ddof=1), scales, digits, units, strict=True
                )
            ]
            rows.append([adapter, str(n), f"{len(names)} {part}s", *texts])
    columns = ["adapter", "questions", "parts", "rank correlation", "summed KL in importance's first tenth"]
    print_table("Importance against ablation", [*columns, "in ablation's own", "sum over ablation's"], rows)


def print_draws(measured: Measured) -> None:
    """Means over halves of the draws, quarters and so on, with the error that the draws alone make."""
    rows = []
    for adapter, parts in measured.items():
        _, importance, ablation = parts["component"]
        n_draws, n_questions, _ = importance.shape
        value = importance.mean(axis=(0, 1))
        for k in (2**i for i in range(n_draws.bit_length()) if 2**i <= n_draws):
            sets = importance[: n_draws // k * k].reshape(-1, k, *importance.shape[1:]).mean(axis=(1, 2))
            r = np.mean([spearmanr(mean, ablation.mean(0))[0] for mean in sets])
            one, total = (
                np.sqrt(side.var(axis=0, ddof=1).mean(0) / n_questions / k) for side in (importance, importance.sum(-1))
            )
            errors = [f"{100 * np.median(one / value):.0f} %", f"{100 * total / value.sum():.0f} %"]
            rows.append([adapter, str(k), str(k * n_questions), f"{r:.3f}", *errors])
    columns = ["adapter", "draws", "passes", "rank correlation", "error of a component (median)", "error of the sum"]
    print_table("What the draws add to the error", columns, rows)


def print_sizes(measured: Measured) -> None:
    """How far the quadratic form is off, by size of importance, over all adapters and kinds of parts."""
    sides = [(i.mean(axis=(0, 1)), a.mean(0)) for parts in measured.values() for _, i, a in parts.values()]
    value, kl = (np.concatenate(side) for side in zip(*sides, strict=True))
    rows = []
    for low, high in pairwise(10.0 ** np.arange(-7, 2)):
        inside = (value >= low) & (value < high)
        if inside.any():
            ratio = np.quantile(value[inside] / kl[inside], [0.5, 0.1, 0.9])
            sums = value[inside].sum() / kl[inside].sum()
            texts = [f"{sums:.2f}", "{:.2f} ({:.2f} to {:.2f})".format(*ratio)]
            rows.append([f"{low:g} to {high:g}", str(inside.sum()), *texts])
    columns = ["importance, nat a token", "parts", "sum over ablation's", "median ratio, first and last tenth"]
    print_table("Importance over ablation by size", columns, rows)


def write_csv(path: Path, measured: Measured) -> None:
    """Means and standard errors over questions of both, by adapter and part."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        sides = ("importance", "importance_se", "ablation", "ablation_se")
        writer.writerow(["adapter", "questions", "part", "name", *sides])
        for adapter, parts in measured.items():
            for part, (names, importance, ablation) in parts.items():
                for name, *columns in zip(names, importance.mean(axis=0).T, ablation.T, strict=True):
                    numbers = [f"{v:.4g}" for c in columns for v in (c.mean(), c.std(ddof=1) / len(c) ** 0.5)]
                    writer.writerow([adapter, len(ablation), part, name, *numbers])


if __name__ == "__main__":
    main()
