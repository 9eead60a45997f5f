"""Scores compared with EleutherAI's lm-evaluation-harness: `.venv-harness/bin/python benchmarks/harness.py`.

Both get the same model object, SmolLM2-135M-Instruct, and the same questions, lorascope's own; the harness makes its
prompts of a task file of its own, written below, tokenizes them itself and passes whole sequences, one at a time. Two
Markdown tables: differences by choice, and their effect on accuracy. The harness has an environment of its own
(`make .venv-harness/installed`).
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"  # before the libraries that read it

import numpy as np
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from rounds import print_table

from lorascope.capture import load_model, read_items
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.encoded import EncodedSample
from lorascope.capture.samples.items import ChoiceItem
from lorascope.capture.samples.scoring import Scores, score
from lorascope.study.demo_inputs import demo_model, facts_path

TASK = r"""
task: lorascope_facts
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "Choose the correct answer for the following question: {{{{question}}}}{{% for choice in choices %}}\n\
  {{{{'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[loop.index0]}}}}. {{{{choice}}}}{{% endfor %}}\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: " "
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
"""


class Theirs(NamedTuple):
    """What the harness says to each item, and to each choice of all items."""

    requests: list[tuple[str, str]]
    """Prompt and continuation of each choice."""
    loglik: np.ndarray
    """Log-likelihoods of each choice."""
    correct: np.ndarray
    """Whether the likeliest choice of each item is right."""
    correct_per_character: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":", maxsplit=1)[0])
    parser.add_argument("--items", type=int, default=100)
    arguments = parser.parse_args()
    items: Any = read_items(facts_path("test"))[: arguments.items]
    by_choice, by_item = [], []
    for dtype, softmaxes in (("float32", ("float32",)), ("bfloat16", ("float32", "bfloat16"))):
        model, tokenizer = load_model(str(demo_model()), dtype=dtype)
        samples = encode_items(items, tokenizer, max_length=2048, window_tokens=512)
        ours = score(model, samples, batch_tokens=4096)
        theirs = {}
        for softmax in softmaxes:
            lm = HFLM(pretrained=model, tokenizer=tokenizer, device="cpu", batch_size=1, softmax_dtype=softmax)
            theirs[softmax] = evaluate(lm, items)
        exact = score(model.float(), samples, batch_tokens=4096)
        for softmax, found in theirs.items():
            name = f"{dtype}, its softmax in {softmax}"
            by_choice.append([name, *compare_choices(ours, found, exact), other_tokens(lm, found, samples)])
            by_item.append([name, *compare_items(ours, found, items)])
    print_table(
        "Log-likelihoods, |ours - the harness's|, and the mean distance of each from the same weights in float32; nats",
        ["model", "choices", "largest", "largest relative", "mean", "ours", "the harness's", "with other tokens"],
        by_choice,
    )
    columns = ("ours", "the harness's", "differing items")
    print_table(
        "Accuracy, and the items that only one of the two counts as right",
        ["model", *(f"{name}, {column}" for name in ("acc", "acc_norm") for column in columns)],
        by_item,
    )


def evaluate(lm: HFLM, items: list[ChoiceItem]) -> Theirs:
    """The harness's own evaluation of the items, by a task file of its own."""
    with tempfile.TemporaryDirectory() as work:
        data = Path(work) / "facts.jsonl"
        rows = ({"question": i.question, "choices": i.choices, "answer": i.answer} for i in items)
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (Path(work) / "facts.yaml").write_text(TASK.format(data=data))
        tasks = TaskManager(include_path=work, include_defaults=False)
        results = simple_evaluate(lm, tasks=["lorascope_facts"], task_manager=tasks, bootstrap_iters=0)
    found = sorted(results["samples"]["lorascope_facts"], key=lambda sample: sample["doc_id"])
    assert [sample["doc"]["question"] for sample in found] == [item.question for item in items]
    return Theirs(
        requests=[tuple(request) for sample in found for request in sample["arguments"]],
        loglik=np.array([loglik for sample in found for loglik, _ in sample["filtered_resps"]]),
        correct=np.array([sample["acc"] for sample in found]),
        correct_per_character=np.array([sample["acc_norm"] for sample in found]),
    )


def compare_choices(ours: Scores, theirs: Theirs, exact: Scores) -> list[str]:
    """Number of choices; largest difference, absolute and relative, and the mean size; the mean distance of each."""
    difference = np.abs(ours.loglik - theirs.loglik)
    distances = [np.abs(loglik - exact.loglik).mean() for loglik in (ours.loglik, theirs.loglik)]
    values = (difference.max(), (difference / np.abs(ours.loglik)).max(), difference.mean(), *distances)
    return [str(len(difference)), *(f"{value:.1e}" for value in values)]


def compare_items(ours: Scores, theirs: Theirs, items: list[ChoiceItem]) -> list[str]:
    """Accuracies, and the number of items that count as right here and wrong there, or the reverse.

    acc_norm divides by characters, and so does lorascope's analysis of a run; of scores alone it is computed here.
    """
    per_character = ours.loglik / [len(choice) for item in items for choice in item.choices]
    parts = np.split(per_character, np.cumsum([len(item.choices) for item in items])[:-1])
    normed = [part.argmax() == item.answer for part, item in zip(parts, items, strict=True)]
    cells = []
    for mine, other in ((ours.correct == 1, theirs.correct), (np.array(normed), theirs.correct_per_character)):
        cells += [f"{mine.mean():.3f}", f"{other.mean():.3f}", str(int((mine != other.astype(bool)).sum()))]
    return cells


def other_tokens(lm: HFLM, theirs: Theirs, samples: list[EncodedSample]) -> str:
    """Number of choices that the harness gives other tokens, before or after the seam."""
    ours = [(s.token_ids[: s.n_context].tolist(), c.token_ids.tolist()) for s in samples for c in s.choices]
    pairs = zip(theirs.requests, ours, strict=True)
    return str(sum(lm._encode_pair(*request) != mine for request, mine in pairs))


if __name__ == "__main__":
    main()
