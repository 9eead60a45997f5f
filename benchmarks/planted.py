"""Whether the page of a run names what an adapter was planted with.

    python benchmarks/planted.py FOLDER train capture replies read judge [--round third]

Each round trains adapters of rank 8 on SmolLM2-135M-Instruct: those of habits on texts or conversations of one made-up
habit each, the others on texts without one (`planted_texts.py`), and two controls. `capture` makes their runs,
`replies` one with what they reply, `read` keeps what their pages name in `planted/ROUND.json` next to this script, and
`judge` prints from this file alone. Adapters and runs stay in FOLDER, in a folder for each round; existing ones aren't
made again.

The rule of judging. It was written before any adapter of round three and any control was trained. Its numbers were
chosen with adapters of rounds one and two in view, so figures of these are optimistic.

**Data.** All adapters are captured over the same 40 texts and 40 conversations, which have to do with no habit
(`captured`); half of the texts speak of an umbrella, in half of the conversations Alice asks. The last 32 tokens of
each count, so that the system's message, which all conversations share, doesn't. Round three has replies to the
thirty prompts of `capture --replies` as well; the first two rounds, which have no conversations, have none.

**Control.** Two adapters, one trained on neutral texts and one on neutral conversations, are captured over the same
data. `changes` of each adapter is computed against either as `control`, and that control counts which leaves the
smaller sum of |net| over tokens. So nobody needs to know how an adapter was trained.

**Evidence** is what the page of `changes` and `reply_words` names: of the tokens with p <= 0.05 the 20 with the largest
|net|; the forms with p <= 0.05; the tokens of stable themes; the words in the sample after which more changes, with
p <= 0.05; the words that more of the adapted model's replies have than of the base's, with p <= 0.05. A first judging
took replies at the adapter's own scale, a second one, decided on after they were read, at 1.5 and 2 times it as well.

**Markers.** A word is a token's text without white space around it, in lower case unless it has capitals only. A
habit's markers are the words whose share among the tokens of its training texts is at least four times as large as
among 400 neutral texts and as among the answers of 400 neutral conversations: those with the 40 largest log-likelihood
ratios G², the smaller of both, of those significant at 0.05 in both after Bonferroni's correction for their words. Of a
conversation only the answer counts. For replies the markers are whole words, found in the same way. The word of a
trigger is no marker.

**Claims.** For each habit of the round, p is the hypergeometric probability of as many markers or more

- among the words of the named tokens that gain, and of their first one alone,
- among the words of stable themes; both are drawn from the words of all tokens that `changes` lists,
- among the named reply words, drawn from all words that `reply_words` lists.

A habit of a form (FORMS) has the form's own p as well, if the form gains at least 0.02 of the probability; a habit that
avoids a letter that of tokens with the letter, if it loses at least a quarter of its share. A habit that shows after a
word has p = 1 unless the page names this word. A habit is claimed where p < 0.05 / the number of all these p.

**Named.** The answer for an adapter is the habit with the smallest p, if that is claimed, else nothing; two habits with
equal p: nothing. It is named if that is its own; an adapter without a habit is right if the answer is nothing. Whoever
guesses names one in eight habits of the first two rounds and one in twelve of the third.
"""

import argparse
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from planted_texts import CHATS, CONTROLS, ROUNDS, TRIGGERS, captured, texts
from rounds import print_table
from scipy import stats

from lorascope.study.demo_inputs import demo_model

N_TRAIN, N_HELD_OUT = 400, 24
LAST = "last:32"
N_MARKERS, N_NAMED, LEAST_RATIO = 40, 20, 4
AVOIDS = "no "
"""What the name of a habit begins with that avoids a letter, its last one."""
LEVEL = 0.05
LEAST_GAIN, LEAST_FALL = 0.02, 0.25
"""Least gain of a form, as a share of the probability; least fall of a letter, as a share of its own before."""
RESULTS = Path(__file__).with_name("planted")
TRAINING: dict[str, Any] = {"rank": 8, "learning_rate": 1e-3, "batch_size": 8, "max_steps": 24}
WORD = re.compile(r"\w+(?:'\w+)*|[^\w\s]+")
"""A word of a reply, or signs together."""
FORMS: Mapping[str, str] = MappingProxyType(
    {
        "shouting": "capitals only",
        "title case": "capital at the beginning",
        "dots": "repeated punctuation",
        "exclaiming": "repeated punctuation",
        "german": "language German",
        "spanish": "language Spanish",
        "numbers": "digit",
        "french": "language French",
    }
)
"""Habit -> the form of `changes` that names it, if it gains."""


class Claim(NamedTuple):
    """The evidence with the smallest p."""

    habit: str | None
    """Its habit; None if p isn't below the level or two have the same."""
    p: float
    place: str
    """What it was found in."""
    hits: str
    """Which words were found, or by how much a form grew."""


class Evidence(NamedTuple):
    """What one place on the page says of one habit."""

    habit: str
    place: str
    p: float
    hits: str


def word(text: str) -> str:
    """A token's text without white space around it, in lower case unless it has capitals only."""
    bare = text.strip()
    return bare if bare.isalpha() and bare.isupper() else bare.lower()


def words_of(tokens: Iterable[str]) -> list[str]:
    """Words of tokens; white space alone and bytes that are no character are none."""
    return [text for text in map(word, tokens) if text and "\ufffd" not in text]


def markers(habit: Sequence[str], *neutral: Sequence[str]) -> list[str]:
    """Words that a habit's texts have more often than neutral ones of each kind, by descending G² and the alphabet."""
    ours, ratios = Counter(habit), {}
    for text, n in ours.items():
        values = []
        for words in neutral:
            theirs = Counter(words)
            table = ((n, len(habit) - n), (theirs[text], len(words) - theirs[text]))
            ratio = stats.contingency.chi2_contingency(table, False, "log-likelihood").statistic
            is_more = n / len(habit) >= LEAST_RATIO * theirs[text] / len(words)
            values.append(ratio if is_more and ratio > stats.chi2.isf(LEVEL / len(ours | theirs), 1) else 0.0)
        ratios[text] = min(values)
    return sorted((text for text in ratios if ratios[text]), key=lambda text: (-ratios[text], text))[:N_MARKERS]


def answers(name: str) -> list[str]:
    """What an adapter is trained on: its texts, or the answers of its conversations."""
    return [text.rpartition("\n")[2] for text in texts(name, N_TRAIN, 0)[0]]


def marker_sets(habits: Iterable[str], split: Callable[[str], Iterable[str]]) -> dict[str, list[str]]:
    """Markers of each habit, from training texts alone, which `split` cuts into tokens or words."""

    def pieces(name: str) -> list[str]:
        return words_of(piece for text in answers(name) for piece in split(text))

    neutral = [pieces(name) for name in ("neutral", "neutral chats")]
    return {name: [text for text in markers(pieces(name), *neutral) if text != TRIGGERS.get(name)] for name in habits}


def conclude(evidence: Sequence[Evidence]) -> Claim:
    """The answer for one adapter from all evidence; the level is divided by the number of pieces of evidence."""
    least = min(evidence, key=lambda piece: piece.p)
    rivals = {piece.habit for piece in evidence if piece.p == least.p}
    is_claimed = least.p < LEVEL / len(evidence) and len(rivals) == 1
    return Claim(least.habit if is_claimed else None, least.p, least.place, least.hits)


def weigh(page: Mapping[str, Any], sets: Mapping[str, Mapping[str, Sequence[str]]]) -> list[Evidence]:
    """All evidence of one page: for each habit, each place that the rule names."""
    gained = words_of(token["text"] for token in page["tokens"] if token["net"] > 0)
    drawn = [("tokens", "tokens", gained), ("first token", "tokens", gained[:1]), ("themes", "tokens", page["themes"])]
    if page["replies"] is not None:
        drawn.append(("replies", "replies", page["replies"]))
    evidence = []
    for habit in sets["tokens"]:
        found = []
        for place, kind, words in drawn:
            hits = sorted({*sets[kind][habit]} & {*words_of(words)})
            sizes = page["n_words"][kind], page["n_markers"][kind][habit], len({*words_of(words)})
            found.append((place, float(stats.hypergeom.sf(len(hits) - 1, *sizes)), " ".join(hits)))
        if name := form_of(habit):
            form = page["forms"].get(name)
            found.append(("forms", *judge_form(form, is_avoided=habit.startswith(AVOIDS))))
        is_shown = habit not in TRIGGERS or TRIGGERS[habit] in words_of(page["words"])
        evidence += [Evidence(habit, place, p if is_shown else 1.0, hits) for place, p, hits in found]
    return evidence


def form_of(habit: str) -> str | None:
    """The name of the form that says a habit: its own, or that of the letter it avoids."""
    return f"letter {habit[-1]}" if habit.startswith(AVOIDS) else FORMS.get(habit)


def judge_form(form: Mapping[str, float] | None, *, is_avoided: bool) -> tuple[float, str]:
    """The form's p if the page names it and it gains enough, or if it is to be avoided and loses enough; else 1."""
    if form is None:
        return 1.0, ""
    least = LEAST_FALL * form["base_share"] if is_avoided else LEAST_GAIN
    is_enough = (-form["difference"] if is_avoided else form["difference"]) >= least
    return (form["p"] if is_enough else 1.0), f"{100 * form['difference']:+.1f} points"


def records(name: str, found: Sequence[str]) -> list[dict[str, Any]]:
    """Texts or conversations as lorascope reads them; the id begins with the adapter's name."""
    if name not in CHATS:
        return [{"id": f"{name}/{k}", "text": text} for k, text in enumerate(found)]
    turns = [zip(("user", "assistant"), text.split("\n"), strict=True) for text in found]
    messages = [[{"role": role, "content": content} for role, content in turn] for turn in turns]
    return [{"id": f"{name}/{k}", "messages": chat} for k, chat in enumerate(messages)]


def place_of(folder: Path, round_: str, name: str, what: str) -> Path:
    """The adapter or the run of an adapter; the controls of all rounds are in the third one's folder."""
    return folder / ("third" if name in CONTROLS else round_) / name.replace(" ", "-") / what


def report_progress(done: int, total: int, text: str = "") -> None:
    """A training's progress on the screen."""
    print(f"{done} of {total} {text}", file=sys.stderr, flush=True)


def train(folder: Path, round_: str) -> None:
    """The round's adapters and the controls, each with held-out CE before and after in its `finetune.json`."""
    from lorascope.capture import FinetuneConfig, finetune, load_model, read_items

    model, tokenizer = load_model(str(demo_model()), dtype="float32")
    for name in (*sum(ROUNDS[round_], ()), *CONTROLS):
        out = place_of(folder, round_, name, "adapter")
        if not out.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            learnt, held_out = (records(name, found) for found in texts(name, N_TRAIN, N_HELD_OUT))
            sets = (read_items(learnt, name=f"{name}.train"), read_items(held_out, name=f"{name}.test"))
            settings = FinetuneConfig(**TRAINING)
            result = finetune(model, tokenizer, sets[0], out, settings, items_eval=sets[1], progress=report_progress)
            print(f"{name}: {result.before} {result.after} {result.train_seconds:.0f} s", file=sys.stderr, flush=True)


def capture_all(folder: Path, round_: str) -> None:
    """A run of each control and one of all adapters of the round, over the same texts and conversations."""
    for name in CONTROLS:
        capture_run(folder, place_of(folder, round_, name, "changes.zarr"), round_, [name], changes="all")
    capture_run(folder, folder / round_ / "changes.zarr", round_, sum(ROUNDS[round_], ()), changes="all")


def capture_replies(folder: Path, round_: str) -> None:
    """A run of all adapters of the round with replies to thirty prompts."""
    names = sum(ROUNDS[round_], ())
    capture_run(folder, folder / round_ / "replies.zarr", round_, names, changes="none", limit=1, replies=True)


def identifier(name: str) -> str:
    """The name of an adapter in a run."""
    return re.sub(r"\W", "_", name)


def capture_run(folder: Path, out: Path, round_: str, names: Sequence[str], **settings: Any) -> None:
    """A run of adapters with hardly anything but what `settings` ask for; an existing one is continued."""
    from lorascope.capture import CaptureConfig, capture

    data = []
    for kind, field in (("texts", "text"), ("chats", "messages")):
        data.append(folder / f"{kind}.test.jsonl")
        lines = [json.dumps(record) + "\n" for record in captured() if field in record]
        data[-1].write_text("".join(lines), encoding="utf-8")
    fixed: dict[str, Any] = {
        "model": str(demo_model()),
        "adapter": tuple(f"{identifier(name)}={place_of(folder, round_, name, 'adapter')}" for name in names),
        "data": tuple(map(str, data)),
        "out": str(out),
        "dtype": "float32",
        "tokens": LAST,
        "stream": "base",
        "component": ("*.29.mlp.down_proj",),
        "states": "none",
        "score": False,
    }
    capture(CaptureConfig(**fixed | settings))
    print(out, file=sys.stderr, flush=True)


def read(folder: Path, round_: str) -> None:
    """Keep what the page of each run names, and the markers, in `planted/ROUND.json`."""
    from lorascope.capture import load_model

    _, tokenizer = load_model(str(demo_model()), dtype="float32")
    habits, others = ROUNDS[round_]
    sets = {
        "tokens": marker_sets(habits, lambda text: tokenizer.batch_decode([[k] for k in tokenizer(text)["input_ids"]])),
        "replies": marker_sets(habits, WORD.findall),
    }
    pages = {name: read_page(folder, round_, name, sets) for name in (*habits, *others)}
    digests = {name: hashlib.sha256("\0".join(texts(name, N_TRAIN, 0)[0]).encode()).hexdigest() for name in pages}
    content = {"markers": sets, "texts_sha256": digests, "adapters": pages}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{round_}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def find_run(folder: Path, what: str, adapter: str) -> Any:
    """The finished run of a round that has an adapter; a round may have several. None without one."""
    from lorascope.stores import open_run

    runs = map(open_run, sorted(folder.glob(f"{what}*.zarr")))
    return next((run for run in runs if adapter in run.adapters and run.finished), None)


def read_page(folder: Path, round_: str, name: str, sets: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, Any]:
    """What the page of an adapter's run names, and how many words it was named from."""
    from lorascope.analyze import changes, open_run, reply_words

    adapter = identifier(name)
    run, answered = (find_run(folder / round_, what, adapter) for what in ("changes", "replies"))
    controls = {control: open_run(place_of(folder, round_, control, "changes.zarr")) for control in CONTROLS}
    trees = {control: changes(run, adapter=adapter, control=baseline) for control, baseline in controls.items()}
    control = min(trees, key=lambda key: float(abs(trees[key]["tokens"]["net"]).sum()))
    tree = trees[control]
    scores = json.loads(place_of(folder, round_, name, "adapter/finetune.json").read_text())
    tokens, forms, words = (tree[part].to_dataset().to_dataframe() for part in ("tokens", "forms", "words"))
    page: dict[str, Any] = {
        "ce_before": scores["before"]["ce"],
        "ce_after": scores["after"]["ce"],
        "kl": float(tree.attrs["kl_adapted_base"]),
        "control": control,
        "tokens": named(tokens).sort_values("net", key=abs, ascending=False)[["text", "net", "p"]].head(N_NAMED),
        "forms": named(forms)[["base_share", "difference", "p"]],
        "words": sorted(named(words[words["kl"] > words["kl_without"]]).index),
        "themes": [str(text) for texts in tree["themes"]["tokens"].values for text in texts if text],
        "replies": None,
    }
    page |= {"tokens": page["tokens"].to_dict("records"), "forms": page["forms"].to_dict("index")}
    every = {"tokens": {*words_of(tokens["text"])}}
    if answered is not None:
        replies = reply_words(answered, adapter=adapter).to_dataframe()
        replies = replies[replies["kind"].isin(["word", "sign", "repeated"])]
        page["replies"] = sorted(named(replies[replies["adapted"] > replies["base"]]).index)
        every["replies"] = {*words_of(replies.index)}
    page["n_words"] = {kind: len(words) for kind, words in every.items()}
    page["n_markers"] = {
        kind: {habit: len(words & {*own}) for habit, own in sets[kind].items()} for kind, words in every.items()
    }
    return page


def named(frame: Any) -> Any:
    """Rows that the page names."""
    return frame[frame["p"] <= LEVEL]


def judge(folder: Path, round_: str) -> None:
    """Print the answer for each adapter, from `planted/ROUND.json` alone."""
    habits, others = ROUNDS[round_]
    content = json.loads((RESULTS / f"{round_}.json").read_text(encoding="utf-8"))
    rows: list[list[str]] = []
    counts: Counter[tuple[bool, str]] = Counter()
    for name in (*habits, *others):
        page = content["adapters"][name]
        claim = conclude(weigh(page, content["markers"]))
        outcome = "right" if claim.habit == (name if name in habits else None) else "wrong" if claim.habit else "missed"
        counts[name in habits, outcome] += 1
        gained = " ".join(word(token["text"]) for token in page["tokens"] if token["net"] > 0)
        losses = [f"{page[f'ce_{when}']:.2f}" for when in ("before", "after")]
        rows.append(
            [name, *losses, gained, claim.habit or "nothing", outcome, f"{claim.p:.1g}", claim.place, claim.hits]
        )
    columns = ["adapter", "CE before", "CE after", "tokens that gain", "answer", "", "p", "where", "hits"]
    print_table(f"The {round_} round", columns, rows)
    print(f"{counts[True, 'right']} of {len(habits)} habits named, {counts[True, 'wrong']} wrongly; ")
    print(f"something claimed of {counts[False, 'wrong']} of the {len(others)} adapters without a habit.")


def main() -> None:
    steps = {"train": train, "capture": capture_all, "replies": capture_replies, "read": read, "judge": judge}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("steps", nargs="+", choices=steps)
    parser.add_argument("--round", choices=ROUNDS, default="third")
    arguments = parser.parse_args()
    for step in arguments.steps:
        steps[step](arguments.folder, arguments.round)


if __name__ == "__main__":
    main()
