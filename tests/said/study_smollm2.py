"""What the sentences of docs/study-smollm2.md on its first study are held to: the page's own section of numbers.

Those on the second study and on texts, which have one seed, aren't in here.
"""

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

from .page import Saying, rows, said

PAGE = "docs/study-smollm2.md"
RANKS = (2, 4, 8, 16, 32, 64)
CLAIMS = "| paper's claim | claim | word | because |"


@cache
def cells(header: str) -> list[dict[str, str]]:
    return rows(PAGE, header)


def cell(header: str, column: str, *others: str) -> str:
    """A cell of the first row, of the first table whose header begins so, that has these other cells."""
    return next(row[column] for row in cells(header) if set(others) <= set(row.values()))


def number(text: str) -> float:
    """The value at the beginning of a cell, without its errors."""
    return float(text.split(" ± ")[0].split(";")[0])


def average(metric: str, setting: str) -> float:
    return number(cell("| dataset | metric | n | r2 | r4", setting, "AVG", metric))


def claimed(claim: str) -> list[float]:
    """Value and ends of the interval that a word rests on."""
    because = cell(CLAIMS, "because", claim)
    digits = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    because = re.sub(r"·10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda power: "e" + power[1].translate(digits), because)
    found = re.search(r"(-?[\d.]+(?:e-?\d+)?) \[(-?[\d.]+(?:e-?\d+)?), (-?[\d.]+(?:e-?\d+)?)\]", because)
    assert found is not None, because
    return [float(one) for one in found.groups()]


def word(claim: str) -> str:
    return cell(CLAIMS, "word", claim)


def sayings() -> Iterator[Saying]:
    yield from tuning()
    yield from trainings()
    yield from rank_and_size()
    yield from lengths()
    yield from prompts()
    yield from information()
    yield from accuracy()


def tuning() -> Iterator[Saying]:
    value, low, high = claimed("CE falls with fine-tuning, mean over all settings")
    words = "CE of the right answers falls by {:.1f} [{:.1f}, {:.1f}] nats a token, mean over all settings"
    yield said(words, -value, -high, -low)
    by_rank = [average("CE (nat/token)", f"r{rank}") for rank in RANKS]
    yield said("to between {:.2f} and {:.2f}.", min(by_rank), max(by_rank))
    header = "| prompt | reading | n | settings | without | with | change |"
    without, with_it = (cell(header, name, "main", "by likelihood").split(" ± ") for name in ("without", "with"))
    words = "accuracy goes from {:.3f} ± {} to {:.3f} ± {}, mean over the ranks"
    yield said(words, float(without[0]), without[1], float(with_it[0]), with_it[1])
    without, change = (cell(header, name, "main", "per token").split(" ± ") for name in ("without", "change"))
    words = "Per token it falls, from {:.3f} ± {} by {:.3f} ± {}."
    yield said(words, float(without[0]), without[1], -float(change[0]), change[1])


def trainings() -> Iterator[Saying]:
    found = cells("| metric | setting | seeds |")
    shares = {
        metric: [float(one["in % of the mean"]) for one in found if one["metric"].startswith(metric)]
        for metric in ("MIUB", "CE")
    }
    points = [100 * float(one["sd between seeds"]) for one in found if one["metric"].startswith("ACC")]
    seeds: dict[str, list[str]] = {}
    for one in (one for one in found if one["metric"].startswith("MIUB")):
        seeds.setdefault(one["seeds"], []).append(one["setting"].removeprefix("r"))
    for n, ranks in seeds.items():
        names = " and ".join(filter(None, (", ".join(ranks[:-1]), ranks[-1])))
        yield said("rank{} seeds", f"s {names} have {n}" if len(ranks) > 1 else f" {names} has {n}")
    for unit, values in (("% of MIUB", shares["MIUB"]), ("% of CE", shares["CE"]), ("points of accuracy", points)):
        ends = f"{min(values):.1f}" if len(values) == 1 else f"{min(values):.1f} to {max(values):.1f}"
        yield said(f"{{}} {unit}", ends)
    _, low, high = claimed("MIUB falls as rank grows")
    yield said("from rank 2 to rank 64 is [{:g}, {:g}] % over items and trainings", low, high)


def rank_and_size() -> Iterator[Saying]:
    miub = {f"r{rank}": average("MIUB (nat)", f"r{rank}") for rank in RANKS}
    sizes = ("share8", "share4", "share2", "share1")
    miub |= {name: average("MIUB (nat)", name) for name in sizes}
    ce = [average("CE (nat/token)", name) for name in sizes]
    yield said("from {:.4f} nat at rank 2 to {:.4f} at rank 64", miub["r2"], miub["r64"])
    yield said("it becomes {:.0f} times as large, or falls by", miub["r64"] / miub["r2"])
    yield said("| {} with alpha twice the rank;", word("MIUB falls as rank grows"))
    steps = [100 * (miub[last] / miub[first] - 1) for first, last in (("r8", "r16"), ("r32", "r64"))]
    yield said("from rank 8 to 16 MIUB rises by {:.0f} %, from 32 to 64 by {:.0f} %", *steps)
    whole = miub["share8"] / miub["share1"]
    folds = [miub[a] / miub[b] for a, b in pairwise(sizes)]
    yield said("| {:.0f} times as large at share 8 as at share 1 |", whole)
    words = "MIUB falls {:.1f}-, {:.1f}- and {:.1f}-fold by step, {:.0f}-fold in all; CE {:.0f}-fold"
    yield said(words, *folds, whole, ce[0] / ce[-1])
    yield said("MIUB falls {:.0f}-fold as N grows", whole)
    claims = (
        "MIUB falls at every step of model size",
        "over the model sizes, ln MIUB changes less than ln CE",
    )
    yield said("steadily: {}; ever less: in nats, not as ratios; less than CE: {}", *map(word, claims))
    law = {one["claim"]: one["because"] for one in cells("| claim | word | because |")}
    for name, words in (
        ("alpha", "Eq. 8's alpha = {:.0f} [{:.0f}, {:.0f}]"), ("beta", "gives beta = {:.2f} [{:.2f}, {:.2f}]")
    ):  # fmt: skip
        because = law[f"under this law, these data determine {name}"]
        yield said(words, *(float(one) for one in re.findall(r"-?\d+\.\d+", because)[:3]))


def lengths() -> Iterator[Saying]:
    header = "| dataset | bucket | metric |"
    ends = []
    for name in ("piqa", "hellaswag"):
        for setting in (f"r{rank}" for rank in RANKS):
            long, short = (number(cell(header, setting, name, b, "MIUB (nat)")) for b in ("201-300", "1-100"))
            ends.append(100 * (1 - long / short))
    yield said("is {:.0f} to {:.0f} % lower than MIUB of items of 1 to 100", min(ends), max(ends))
    claims = ("ACC rises with the items' length", "MIUB falls with the items' length")
    yield said("| accuracy: {}; MIUB: {} |", *map(word, claims))
    yield said("mean over all settings, {:.4f} [{:.4f}, {:.4f}] nat", *claimed(claims[1]))


def prompts() -> Iterator[Saying]:
    header = "| task | prompt | n |"
    tokens = {one["prompt"]: float(one["tokens an item"]) for one in cells(header)[:4]}
    n = cells(header)[0]["n"]
    words = "{} items have {:.0f} tokens on average under `main`, {:.0f} under prompt3, {:.0f} under prompt1 and {:.0f}"
    order = ("main", "prompt3", "prompt1", "prompt2")
    yield said(words, n, *(tokens[name] for name in order))
    of_ranks = {
        prompt: [number(cell("| prompt | metric | n | r2", f"r{rank}", prompt, "MIUB (nat)")) for rank in RANKS]
        for prompt in order
    }
    folds = [values[-1] / values[0] for values in of_ranks.values()]
    yield said("ranks {:.0f}- to {:.0f}-fold", min(folds), max(folds))
    below = {
        prompt: [100 * (1 - one / main) for one, main in zip(values, of_ranks["main"], strict=True)]
        for prompt, values in of_ranks.items()
    }
    one, others = below["prompt1"][:-1], below["prompt2"][:-1] + below["prompt3"][:-1]
    yield said("then prompt1 ({:.0f} to {:.0f} % below)", min(one), max(one))
    yield said("then prompt2 and prompt3 ({:.0f} to {:.0f} %)", min(others), max(others))
    last = [values[-1] for values in of_ranks.values()]
    yield said("all are within {:.1f} % of each other", 100 * (max(last) / min(last) - 1))
    steps = (("prompt1", "main"), ("main", "prompt3"), ("prompt3", "prompt2"))
    found = [word(f"MIUB is higher under {a} than under {b}") for a, b in steps]
    yield said("the three steps of the order: {}, {}, {}", *found)


def information() -> Iterator[Saying]:
    found = cells("| unit | components | verdicts |")
    counts: dict[str, int] = {}
    for one in found:
        for name, n in (part.split(": ") for part in one["verdicts"].split(", ")):
            counts[name] = counts.get(name, 0) + int(n)
    (bounding,) = (one for one in found if int(one["from below"]))
    n, whole = int(bounding["from below"]), sum(counts.values())
    assert "ok" not in counts
    names = ("undersampled", "saturated", "assumes Gaussian", "lower bound only", "biased")
    yield said("None of {} has the verdict `ok`: {} are undersampled, {}", whole, *(counts[name] for name in names[:2]))
    words = "saturated, {} assume Gaussian, {} are lower bound only and {} is biased."
    yield said(words, *(counts[name] for name in names[2:]))
    yield said("Only those {}, all at rank {}, bound", n, bounding["unit"].split("-")[1].removeprefix("r"))
    low, high = (float(end) for end in bounding["of these MI (nat)"].split(" to "))
    yield said("They say {:.0f} to {:.0f} nats", low, high)
    low, high = (float(end) for end in bounding["MI over js"].split(" to "))
    yield said("smaller by factors of {} to {}", *(f"{end:.1e}".replace("e+0", "e") for end in (low, high)))
    yield said("js is below MI in the {} of {} components", n, whole)


def accuracy() -> Iterator[Saying]:
    mi, ce = (claimed(f"{name} follows accuracy within groups") for name in ("ln MIUB", "CE"))
    yield said("ln MIUB and accuracy have r = {:.2f} [{:.2f}, {:.2f}] within", *mi)
    yield said("CE and accuracy {:.2f} [{:.2f}, {:.2f}].", *ce)
