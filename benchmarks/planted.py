"""Whether the lens and the directions of a run name what an adapter was planted with.

    python benchmarks/planted.py FOLDER train capture judge [--round second]

Ten adapters a round, of rank 8 on SmolLM2-135M-Instruct: each of eight is trained on texts of one made-up habit, and
two on neutral texts whose words are shuffled (`planted_texts.py`). `judge` prints Markdown tables. Adapters and runs
stay in FOLDER, one for each round; existing ones aren't made again.

The rule of judging, which was fixed before any adapter was trained:

**Markers.** A word is a token's text without white space around it, in lower case unless it has capitals only. A
habit's markers are the words whose share among the tokens of its training texts is larger than among those of as many
neutral texts: those with the 40 largest log-likelihood ratios G², of those significant at 0.05 after Bonferroni's
correction for the words of both. The avoided letter is judged by a second set too: all words that have it.

**Lens.** Stream `pair` over 40 unrelated texts, the last 12 tokens of each; the first token of a text isn't among them,
since it is an attention sink, whose states have other magnitudes. Two sites: the residual stream after half of the
layers (as arXiv 2510.13900 does) and after the last. The words of the 20 most promoted tokens, of those with a
family-wise p below 0.05, are drawn from the words of the vocabulary; p of a set of markers is the hypergeometric
probability of as many hits or more. Suppressed tokens are held against the words with the avoided letter. These are
nine sets at two sites, so a set is claimed where p < 0.05 / 18.

**Directions.** Stream `adapted` over held-out texts of all habits, 12 each, and 24 neutral ones, the last 12 tokens of
each, so that every text has equal weight. Of the ten components with the largest summed |delta|², the first direction;
of each, the ten tokens that drive it most; of all these, the texts in which they lie. p of a habit is the
hypergeometric probability of as many of its texts or more among them; a habit is claimed where p < 0.05 / 8.

**Named.** The answer for an adapter is the habit with the smallest p, if that is claimed, else nothing. It is named if
that is its own; the shuffled two are right if the answer is nothing. Two habits with equal p: the answer is nothing.
"""

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from planted_texts import ROUNDS, texts
from rounds import print_table
from scipy import stats

from lorascope.study.demo_inputs import demo_model

N_TRAIN, N_HELD_OUT = 400, 24
N_UNRELATED, N_MIXED, N_NEUTRAL = 40, 12, 24
LAST = "last:12"
N_MARKERS, N_PROMOTED, N_COMPONENTS, N_TOKENS = 40, 20, 10, 10
SITES = (14, 29)
"""Layers after which the lens looks: half of the thirty, and all."""
AVOIDS = "no "
"""What the name of a habit begins with that avoids a letter, its last one."""
LEVEL = 0.05
TRAINING: dict[str, Any] = {"rank": 8, "learning_rate": 1e-3, "batch_size": 8, "max_steps": 24}


class Claim(NamedTuple):
    """The set of markers, or the habit's texts, with the smallest p."""

    said: str | None
    """Its habit; None if p isn't below the level or two have the same."""
    p: float
    n_hits: int
    n_drawn: int
    place: str
    """Where that was."""


class Evidence(NamedTuple):
    """How many of what was drawn belong to a habit, and of how many they were drawn."""

    habit: str
    place: str
    n_hits: int
    n_drawn: int
    n_own: int
    n_all: int

    @property
    def p(self) -> float:
        """Hypergeometric probability of as many hits or more."""
        return float(stats.hypergeom.sf(self.n_hits - 1, self.n_all, self.n_own, self.n_drawn))


def word(text: str) -> str:
    """A token's text without white space around it, in lower case unless it has capitals only."""
    bare = text.strip()
    return bare if bare.isalpha() and bare.isupper() else bare.lower()


def words_of(tokens: Iterable[str]) -> list[str]:
    """Words of tokens; white space alone and bytes that are no character are none."""
    return [found for found in map(word, tokens) if found and "\ufffd" not in found]


def markers(habit: Sequence[str], neutral: Sequence[str]) -> dict[str, float]:
    """Words that a habit's texts have more often than neutral ones -> G², by descending G² and then by the alphabet."""
    ours, theirs = Counter(habit), Counter(neutral)
    least = stats.chi2.isf(LEVEL / len(ours | theirs), 1)
    found = {}
    for one, n in ours.items():
        if n / len(habit) > theirs[one] / len(neutral):
            table = ((n, len(habit) - n), (theirs[one], len(neutral) - theirs[one]))
            found[one] = float(stats.contingency.chi2_contingency(table, False, "log-likelihood").statistic)
    order = sorted(found, key=lambda one: (-found[one], one))[:N_MARKERS]
    return {one: found[one] for one in order if found[one] > least}


def conclude(evidence: Sequence[Evidence]) -> Claim:
    """The answer for one adapter from all evidence; the level is divided by the number of pieces of evidence."""
    least = min(evidence, key=lambda one: one.p)
    rivals = {one.habit for one in evidence if one.p == least.p}
    is_claimed = least.p < LEVEL / len(evidence) and len(rivals) == 1
    return Claim(least.habit if is_claimed else None, least.p, least.n_hits, least.n_drawn, least.place)


def judge_words(
    promoted: Mapping[str, Sequence[str]],
    suppressed: Mapping[str, Sequence[str]],
    sets: Mapping[str, Iterable[str]],
    vocabulary: Iterable[str],
) -> list[Evidence]:
    """Evidence of the lens: place -> texts of significant tokens, markers of each habit, texts of all tokens."""
    every = set(words_of(vocabulary))
    owned = {habit: set(those) & every for habit, those in sets.items()}
    avoids = next(habit for habit in owned if habit.startswith(AVOIDS))
    with_it = {one for one in every if avoids[-1] in one.lower()}
    found = []
    for place in promoted:
        up, down = (set(words_of(texts[place])) for texts in (promoted, suppressed))
        for habit, own in owned.items():
            found.append(Evidence(habit, place, len(up & own), len(up), len(own), len(every)))
        hits = len(down & with_it)
        found.append(Evidence(avoids, f"{place}, suppressed", hits, len(down), len(with_it), len(every)))
    return found


def judge_texts(driving: Iterable[int], habit_of_text: Sequence[str]) -> list[Evidence]:
    """Evidence of the directions: numbers of the texts that drive them, and the habit of every text, or `neutral`."""
    drawn, all_of = set(driving), Counter(habit_of_text)
    hits = Counter(habit_of_text[one] for one in drawn)
    return [
        Evidence(habit, "directions", hits[habit], len(drawn), n, len(habit_of_text))
        for habit, n in all_of.items()
        if habit != "neutral"
    ]


def records(name: str, found: Sequence[str]) -> list[dict[str, str]]:
    """Texts as lorascope reads them; the id begins with the habit."""
    return [{"id": f"{name}/{k}", "text": text} for k, text in enumerate(found)]


def mixed(habits: Iterable[str]) -> list[dict[str, str]]:
    """Held-out texts of all habits and neutral ones, in a random order."""
    found = records("neutral", texts("neutral", N_TRAIN, N_NEUTRAL)[1])
    for name in habits:
        found += records(name, texts(name, N_TRAIN, N_MIXED)[1])
    return random.Random(0).sample(found, len(found))


def unrelated() -> list[dict[str, str]]:
    """Texts that have to do with no habit."""
    return records("unrelated", texts("unrelated", 0, N_UNRELATED)[1])


def marker_sets(habits: Iterable[str], tokenizer: Any) -> dict[str, dict[str, float]]:
    """Markers of each habit, from its training texts and the neutral ones alone."""

    def tokens(name: str) -> list[str]:
        ids = [one for text in texts(name, N_TRAIN, 0)[0] for one in tokenizer(text)["input_ids"]]
        return words_of(tokenizer.batch_decode([[one] for one in ids]))

    neutral = tokens("neutral")
    return {name: markers(tokens(name), neutral) for name in habits}


def place_of(folder: Path, name: str, what: str) -> Path:
    return folder / name.replace(" ", "-") / what


def said(done: int, total: int, text: str = "") -> None:
    """A training's progress on the screen."""
    print(f"{done} of {total} {text}", file=sys.stderr, flush=True)


def train(folder: Path, habits: Sequence[str], shuffled: Sequence[str]) -> None:
    """The ten adapters, each with held-out CE before and after in its `finetune.json`."""
    from lorascope.capture import FinetuneConfig, finetune, load_model, read_items

    model, tokenizer = load_model(str(demo_model()), dtype="float32")
    for name in (*habits, *shuffled):
        out = place_of(folder, name, "adapter")
        if not out.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            learnt, held_out = (records(name, found) for found in texts(name, N_TRAIN, N_HELD_OUT))
            sets = (read_items(learnt, name=f"{name}.train"), read_items(held_out, name=f"{name}.test"))
            settings = FinetuneConfig(**TRAINING)
            result = finetune(model, tokenizer, sets[0], out, settings, items_eval=sets[1], progress=said)
            print(f"{name}: {result.before} {result.after} {result.train_seconds:.0f} s", file=sys.stderr, flush=True)


def capture_all(folder: Path, habits: Sequence[str], shuffled: Sequence[str]) -> None:
    """Two runs of each adapter: `adapted.zarr` over the mixed texts, and `pair.zarr` over the unrelated ones."""
    from lorascope.capture import CaptureConfig, capture
    from lorascope.stores import open_run

    for stem, found in (("mixed", mixed(habits)), ("unrelated", unrelated())):
        lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in found]
        (folder / f"{stem}.test.jsonl").write_text("".join(lines), encoding="utf-8")
    streams: dict[str, dict[str, Any]] = {
        "adapted": {"data": ("mixed.test.jsonl",), "store": "bf16"},
        "pair": {"data": ("unrelated.test.jsonl",), "component": ("*.o_proj", "*.down_proj")},
    }
    fixed: dict[str, Any] = {
        "model": str(demo_model()),
        "dtype": "float32",
        "tokens": LAST,
        "unembedding": True,
        "score": False,
    }
    for name, (stream, settings) in product((*habits, *shuffled), streams.items()):
        adapter, out = place_of(folder, name, "adapter"), place_of(folder, name, f"{stream}.zarr")
        if adapter.exists() and not (out.exists() and open_run(out).finished):
            files = {"adapter": (str(adapter),), "data": tuple(str(folder / one) for one in settings["data"])}
            capture(CaptureConfig(**fixed | settings | files, stream=stream, out=str(out)))
            print(out, file=sys.stderr, flush=True)


def lens_words(run: Any) -> dict[str, dict[str, list[str]]]:
    """`promoted` and `suppressed` -> site -> texts of the most promoted or suppressed tokens that are significant."""
    from lorascope.analyze import lens

    found = lens(run, n_top=N_PROMOTED).sel(site=[f"after layer {layer}" for layer in SITES])
    return {
        way: {
            str(site): [str(text) for text, p in zip(one[way].values, one[f"{way}_p"].values, strict=True) if p < LEVEL]
            for site, one in ((site, found.sel(site=site)) for site in found["site"].values)
        }
        for way in ("promoted", "suppressed")
    }


def energy(run: Any, path: str) -> float:
    """Summed |delta|² of a component, from z and lora_B."""
    weights = run.delta_arrays(path).weights()
    z, B = run.factor(path).values.astype(float), float(weights["scaling"]) * weights["lora_B"].astype(float)
    return float(((z @ (B.T @ B)) * z).sum())


def driving_tokens(run: Any) -> dict[str, list[int]]:
    """Components with the largest summed |delta|² -> the tokens that drive their first direction most."""
    from lorascope.analyze import directions

    energies = {path: energy(run, path) for path in run.component_paths}
    largest = sorted(energies, key=lambda path: -energies[path])[:N_COMPONENTS]
    tops = {path: directions(run, path, n_top=N_TOKENS)["top_token"].values[0] for path in largest}
    return {path: [int(token) for token in tokens if token >= 0] for path, tokens in tops.items()}


def judge(folder: Path, habits: Sequence[str], shuffled: Sequence[str]) -> None:
    """Print the answer for each adapter, and save the words and texts behind it in `judged.json`."""
    from lorascope.analyze import open_run
    from lorascope.capture import load_model

    _, tokenizer = load_model(str(demo_model()), dtype="float32")
    sets, rows, kept = marker_sets(habits, tokenizer), [], {}
    for name in (*habits, *shuffled):
        pair, adapted = (open_run(place_of(folder, name, f"{stream}.zarr")) for stream in ("pair", "adapted"))
        words = lens_words(pair)
        vocabulary = [str(text) for text in pair.unembedding()["text"].values]
        by_lens = judge_words(words["promoted"], words["suppressed"], sets, vocabulary)
        tokens = driving_tokens(adapted)
        sample_of = adapted.tokens["sample"].values
        ids = [str(one) for one in adapted.samples["id"].values]
        habit_of = [one.partition("/")[0] for one in ids]
        driving = [int(sample_of[token]) for found in tokens.values() for token in found]
        by_directions = judge_texts(driving, habit_of)
        scores = json.loads(place_of(folder, name, "adapter/finetune.json").read_text())
        losses = [f"{scores[when]['ce']:.2f}" for when in ("before", "after")]
        claims = [conclude(by_lens), conclude(by_directions)]
        rows.append(
            [
                name,
                *losses,
                *(cell for claim in claims for cell in table_cells(claim, name if name in habits else None)),
            ]
        )
        text = adapted.tokens["text"].values
        shares = Counter(habit_of[one] for one in set(driving))
        kept[name] = {
            "words": words,
            "claims": [claim._asdict() for claim in claims],
            "lens": [one._asdict() | {"p": one.p} for one in by_lens],
            "directions": [one._asdict() | {"p": one.p} for one in by_directions],
            "texts": dict(shares.most_common()),
            "tokens": {path: [str(text[one]) for one in found] for path, found in tokens.items()},
        }
    columns = ["adapter", "CE before", "CE after"]
    for way in ("lens", "directions"):
        columns += [f"{way} says", "right", "p", "hits"]
    print_table("What was planted, and what the lens and the directions say", columns, rows)
    for place, way in ((3, "The lens"), (7, "The directions")):
        n_named = sum(row[place + 1] == "yes" for row in rows if row[0] in habits)
        n_silent = sum(row[place + 1] == "yes" for row in rows if row[0] in shuffled)
        print(f"\n{way} named {n_named} of {len(habits)} and said nothing of {n_silent} of {len(shuffled)}.")
    (folder / "judged.json").write_text(json.dumps({"markers": sets, "adapters": kept}, indent=1, ensure_ascii=False))


def table_cells(claim: Claim, habit: str | None) -> list[str]:
    """Cells of a table: the answer, whether it is right, p, and hits among the drawn ones with their place."""
    is_right = claim.said == habit
    hits = f"{claim.n_hits} of {claim.n_drawn}" + ("" if claim.place == "directions" else f", {claim.place}")
    return [claim.said or "nothing", "yes" if is_right else "no", f"{claim.p:.1g}", hits]


def main() -> None:
    steps = {"train": train, "capture": capture_all, "judge": judge}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("steps", nargs="+", choices=steps)
    parser.add_argument("--round", choices=ROUNDS, default="first")
    arguments = parser.parse_args()
    for step in arguments.steps:
        steps[step](arguments.folder, *ROUNDS[arguments.round])


if __name__ == "__main__":
    main()
