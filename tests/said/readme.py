"""What the numbers of README are held to."""

import math
import re
import tomllib
from collections.abc import Iterator

import numpy as np
import pandas as pd

from lorascope.analyze import jensen_shannon

from .mutual_information import held, mean_error, tasks_of
from .page import ROOT, Saying, count, equation, said, table

README = (ROOT / "README.md").read_text()


def sayings() -> Iterator[Saying]:
    states = np.random.default_rng(0).normal(size=(3, 20))
    yield said("It is {:.0f} where the adapter does nothing", jensen_shannon(states, 0 * states).max())
    yield equation("ln 2 = 0.69")
    compared = re.search(r"report ((?:[A-Z] ?)+)`", README)
    assert compared is not None
    yield said("Which of {} adapters?", count(len(compared[1].split())))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    yield said("You need Python {} or later", project["requires-python"].removeprefix(">="))
    unseen = tasks_of("unseen")
    ok = {name: row for name, row in unseen.items() if row["verdict"] == "ok"}
    yield said("on {} tasks that were looked at once, they err by {:.3f} nat", len(unseen), mean_error(unseen))
    yield said("intervals of the {} that it calls `ok` hold the truth in {}", len(ok), held(ok))
    yield from demo()
    recipes = (ROOT / "docs/recipes.md").read_text()
    yield said("Recipes answer {} common questions", count(len(re.findall("^## ", recipes, re.MULTILINE))))
    yield said("and {} notebooks in `notebooks/`", count(len(list((ROOT / "notebooks").glob("*.ipynb")))))
    scale = (ROOT / "docs/scale.md").read_text()
    measured, estimated = re.search(r"from ([\d.]+) GB to", scale), re.search(r"estimate for (\d+) TB", scale)
    assert measured is not None
    assert estimated is not None
    yield said("time and memory from {} GB to {} TB", measured[1], estimated[1])


def demo() -> Iterator[Saying]:
    """What the demo needs and finds: its settings, and what docs/benchmarks.md measured of it."""
    from lorascope.cli.commands.demo import FINETUNE, N_ITEMS

    n_parameters = pd.read_csv(ROOT / "study/smollm2/study.csv")["N"].max()
    yield said("a real model of {:.0f} {} parameters", n_parameters / 1e6, "million")
    questions = (ROOT / "study/lorascope/study/facts/facts.train.jsonl").read_text().splitlines()
    asked = min(len(questions), FINETUNE.max_steps * FINETUNE.batch_size)
    yield said("on a few {} questions", "hundred" if 200 <= asked < 1000 else asked)
    measured = table("docs/benchmarks.md", "| what | value |")
    minutes = float(measured["wall time, all of it"]["value"].split()[0]) / 60
    yield said("in {} to {} minutes", count(math.floor(minutes)), count(math.ceil(minutes)))
    machine = re.search(r"Machine, .*: (\d) cores", (ROOT / "docs/benchmarks.md").read_text())
    assert machine is not None
    yield said("on {} cores", count(int(machine[1])))
    accuracy = re.findall(r"([\d.]+) ±", measured[f"held-out accuracy, {N_ITEMS} items"]["value"])
    yield said("went from {:.0f} % to {:.0f} %", *map(float, accuracy))
    ranks = {kind: float(rank) for kind, rank in re.findall(r"(\w+_proj) +│.*│ +([\d.]+) of 8 ", README)}
    yield said("values use some {:.0f} of their {} ranks", ranks["v_proj"], FINETUNE.rank)
    yield said("gate and up of the MLP nearly {:.0f}", min(ranks["gate_proj"], ranks["up_proj"]))
    yield said("at {} of {}, a smaller rank", FINETUNE.rank // 4, FINETUNE.rank)
    by_text = table("docs/benchmarks.md", "| tokens | MIUB")
    miub = {text: float(row["MIUB, 10⁻³ nat"].split()[0]) for text, row in by_text.items()}
    largest = list(miub)[1:5]
    first = '{}, "{}", {} and {} first, '.format(*largest)
    yield said(
        first + "at {:.1f} to {:.1f} times the mean of all", *(miub[text] / miub["all"] for text in largest[::-3])
    )
