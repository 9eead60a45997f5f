"""Which experts move on which kind of text: `python benchmarks/mixture.py` prints Markdown tables.

A small Mixtral is trained from nothing on two kinds of text that are made here, sums and sentences. An adapter on its
experts then learns, on sums alone, answers that are larger by one. Both kinds are captured in stream `pair`, and
`experts` says by layer, expert and kind how far each expert moved and which tokens it gets. Settings are the same for
all seeds; seed 0 served to write this file, the others to test what it shows.
"""

import argparse
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import torch
from models import byte_tokenizer
from peft import LoraConfig, get_peft_model
from rounds import print_table, write_json
from scipy import stats
from transformers import MixtralConfig, MixtralForCausalLM

from lorascope.analyze import experts, miub, to_dataframe
from lorascope.capture import CaptureConfig, capture

KINDS = ("sums", "sentences")
N_EXPERTS, N_LAYERS, WINDOW = 8, 4, 128
STEPS = {"base": 500, "adapter": 150}
BATCH, RATE, BALANCE = 16, 1e-3, 2e-3
N_WINDOWS = 40
"""Captured windows of each kind."""
LEAST_SHARE = 1e-3
"""An expert that gets a smaller share of the tokens of sums is one with almost none of them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/mixture"), help="models and runs of each seed")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows, content = [], {}
    for seed in arguments.seeds:
        folder = arguments.folder / f"seed-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        losses = train(folder, seed)
        found = measure(folder)
        content[str(seed)] = {**losses, **found}
        rows.append([seed, *(f"{value:.3g}" for value in content[str(seed)].values())])
        print_table(f"Seed {seed}", ("", *content[str(seed)]), rows[-1:])
    if len(rows) > 1:
        print_table("All seeds", ("seed", *next(iter(content.values()))), rows)
    write_json(arguments.json, content)


def sum_line(chance: random.Random, *, more: int = 0) -> str:
    a, b = chance.randrange(100), chance.randrange(100)
    return f"{a} + {b} = {a + b + more}\n"


def sentence(chance: random.Random, *, more: int = 0) -> str:
    adjectives, nouns = ("old", "red", "small", "quiet", "green"), ("fox", "tree", "river", "teacher", "boat", "cat")
    verbs = ("sees", "likes", "finds", "paints", "carries")
    one, two = (f"the {chance.choice(adjectives)} {chance.choice(nouns)}" for _ in range(2))
    return f"{one.capitalize()} {chance.choice(verbs)} {two}.\n"


def text_of(kind: str, chance: random.Random, n_characters: int, *, more: int = 0) -> str:
    make, parts = sum_line if kind == "sums" else sentence, list[str]()
    while sum(map(len, parts)) < n_characters:
        parts.append(make(chance, more=more))
    return "".join(parts)


def train(folder: Path, seed: int) -> dict[str, float]:
    """Train model and adapter of a seed into a folder; return their last losses in nats a token."""
    torch.manual_seed(seed)
    chance, tokenizer = random.Random(seed), byte_tokenizer()
    config = MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=128, num_hidden_layers=N_LAYERS,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=N_EXPERTS, num_experts_per_tok=2,
        max_position_embeddings=512, bos_token_id=0, eos_token_id=1, pad_token_id=2, output_router_logits=True,
        router_aux_loss_coef=BALANCE,
    )  # fmt: skip
    model: Any = MixtralForCausalLM(config)
    losses = {"loss of the base": fit(model, tokenizer, chance, STEPS["base"], KINDS)}
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    targets = ["experts.gate_up_proj", "experts.down_proj"]
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=[], target_parameters=targets))
    losses["loss of the adapter on sums"] = fit(adapted, tokenizer, chance, STEPS["adapter"], ("sums",), more=1)
    adapted.save_pretrained(folder / "adapter", save_embedding_layers=False)
    return losses


def fit(
    model: Any, tokenizer: Any, chance: random.Random, n_steps: int, kinds: tuple[str, ...], *, more: int = 0
) -> float:
    """Train what requires gradients on these kinds of text in equal parts; return the mean loss of the last tenth."""
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=RATE)
    losses = []
    for _ in range(n_steps):
        texts = [text_of(kinds[i % len(kinds)], chance, WINDOW, more=more) for i in range(BATCH)]
        ids = torch.tensor([tokenizer(text)["input_ids"][:WINDOW] for text in texts])
        output = model(input_ids=ids, labels=ids)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
    return float(np.mean(losses[-n_steps // 10 :]))


def measure(folder: Path) -> dict[str, float]:
    """Capture both kinds of text and print the experts' numbers by layer and kind; return what sums them up."""
    chance = random.Random("captured")
    for kind in KINDS:
        (folder / f"{kind}.txt").write_text(text_of(kind, chance, N_WINDOWS * WINDOW, more=int(kind == "sums")))
    config = CaptureConfig(
        model=str(folder / "model"), adapter=str(folder / "adapter"), stream="pair", window_tokens=WINDOW,
        data=tuple(str(folder / f"{kind}.txt") for kind in KINDS), out=str(folder / "pair.zarr"),
    )  # fmt: skip
    run = capture(config)
    table = to_dataframe(experts(run, miub(run), ("layer", "expert", "dataset")), "group")
    wide = table.pivot(index=["layer", "expert"], columns="dataset")
    sums, sentences = (
        {name: wide[name][kind].to_numpy() for name in ("miub", "delta_ratio", "share", "base_share", "gained")}
        for kind in KINDS
    )
    share, ratio = np.nan_to_num(sums["share"]), sums["delta_ratio"]
    used = share >= LEAST_SHARE
    rho = stats.spearmanr(share[used], ratio[used])
    print_experts(wide)
    both = np.isfinite(sums["miub"]) & np.isfinite(sentences["miub"])
    return {
        "experts with tokens of both kinds": float(both.sum()),
        "of them MIUB larger on sums": float((sums["miub"] > sentences["miub"])[both].sum()),
        "median |delta| / |base| on sums": float(np.nanmedian(ratio)),
        "median |delta| / |base| on sentences": float(np.nanmedian(sentences["delta_ratio"])),
        "experts with tokens of sums": float(used.sum()),
        "Spearman of share and |delta| / |base| there": float(rho.statistic),
        "p": float(rho.pvalue),
        "tokens of sums with another expert": float(np.nansum(sums["gained"]) / N_LAYERS),
        "tokens of sentences with another expert": float(np.nansum(sentences["gained"]) / N_LAYERS),
    }


def print_experts(wide: pd.DataFrame) -> None:
    columns = [(name, kind) for name in ("miub", "delta_ratio", "share", "gained") for kind in KINDS]
    rows = [
        [f"{layer}", f"{expert}", *("-" if np.isnan(value) else f"{value:.2g}" for value in (row[c] for c in columns))]
        for (layer, expert), row in wide.iterrows()
    ]
    print_table("By expert", ("layer", "expert", *(f"{name}, {kind}" for name, kind in columns)), rows)


if __name__ == "__main__":
    main()
