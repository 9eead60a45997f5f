"""What the numbers of the first part of docs/paper-audit.md are held to: its section of numbers, and the tables."""

from collections.abc import Iterator
from importlib.resources import files

from lorascope.study import paper_study, paper_table
from lorascope.study.paper_tables import CHANCE, LAYERS

from .mathematics import decades
from .page import Saying, count, exponent, quoted, rows, said

PAGE = "docs/paper-audit.md"
MODELS = ("Phi3", "LLaMA3")


def cell(header: str, column: str, *others: str) -> str:
    """A cell of the first row, of the table whose header begins so, that has these other cells."""
    return next(row[column] for row in rows(PAGE, header) if set(others) <= set(row.values()))


def number(header: str, column: str, *others: str) -> float:
    return float(cell(header, column, *others))


def sayings() -> Iterator[Saying]:
    yield from trends()
    yield from ratios()
    yield from metrics()
    yield from eq_8()
    yield from tables()
    yield from slips()


def trends() -> Iterator[Saying]:
    names = ("L", "p", "steps against", "steps level", "steps")
    falls, grows, rises = (
        dict(zip(names, (number("| claim | cells", name, claim, "as printed", "both") for name in names), strict=True))
        for claim in ("MIUB falls along R", "MIUB falls along N", "ACC rises along R")
    )
    slope = number("| sweep | cells", "slope", "rank, R", "as printed", "both")
    ranks = paper_study()["R"].agg(["min", "max"])
    times = ranks["max"] / ranks["min"]
    yield said("Page's L {:g}, p = {}; {:g} of", falls["L"], exponent(falls["p"], 0), falls["steps against"])
    yield said("of {:g} steps rise; {:.1f} % for {:g} times the rank", falls["steps"], 100 * (times**slope - 1), times)
    yield said("Page's L {:g}, p = {:.1e}, the", grows["L"], grows["p"])
    yield said("possible; {:g} of {:g} steps rise", grows["steps against"], grows["steps"])
    counted = (rises[name] for name in ("steps against", "steps", "steps level"))
    yield said("{:g} of {:g} steps fall and {:g} are level; p = {:.2f}", *counted, rises["p"])


def ratios() -> Iterator[Saying]:
    found = rows(PAGE, "| claim | group | member |")

    def of(claim: str, model: str, scale: float) -> list[float]:
        sets = [one for one in found if (one["claim"], one["group"]) == (claim, model)]
        values = [scale * float(one["value"]) for one in sets if one["member"] not in ("AVG", "plain mean")]
        return [min(values), max(values)]

    yield quoted("MIUB decreases by 17 % (4.5)", place="section 4.5")
    yield quoted("CE changes 571 times (4.5)", place="section 4.5")
    percent, times = "decreasing by 17 %", "571 times"
    average = 100 * number("| claim | group", "value", percent, "Phi3", "AVG")
    yield said("{:.2f} % in AVG of Phi3; {:.1f} to {:.1f} % in its data sets", average, *of(percent, "Phi3", 100))
    yield said("{:.1f} to {:.1f} % in those of LLaMA3", *of(percent, "LLaMA3", 100))
    ends = (number("| claim | group", end, times, "Phi3", "AVG") for end in ("low", "high"))
    yield said("{:.1f} to {:.1f} in AVG of Phi3; {:.0f} to {:.0f} in its data sets", *ends, *of(times, "Phi3", 1))
    yield said("{:.1f} to {:.0f} in those of LLaMA3", *of(times, "LLaMA3", 1))


def metrics() -> Iterator[Saying]:
    def of(name: str, cells: str = "as printed") -> list[float]:
        header = "| cells | LLaMA3 r32 = share1 | metric"
        return [number(header, name, cells, "once", metric) for metric in ("ln MIUB", "CE")]

    def p_of(cells: str) -> float:
        return number("| cells | LLaMA3 r32 = share1 | pair", "williams p", cells, "once", "ln MIUB - CE")

    yield said("r = {:.3f} against {:.3f}, Williams' p = {:.4f}", *of("Pearson"), p_of("as printed"))
    collapsed = count(int((paper_study()["ACC"] < CHANCE).sum()))
    yield said("only because of {} cells", collapsed)
    without = "without collapsed"
    yield said("without {} cells of LLaMA3 {:.3f} against {:.3f},", collapsed, *of("Pearson", without))
    yield said("p = {:.2f}; mean rank correlations {:.3f} and {:.3f}", p_of(without), *of("mean Spearman"))
    (shared, shared_p), (strict, strict_p) = ([of(r), of(f"p of {r} by t")] for r in ("partial r", "strict r"))
    assert (
        cell("| cells | LLaMA3 r32 = share1 | metric", "effects of settings by", "as printed", "once", "CE") == "model"
    )
    yield said("partial r = {:.2f}, p = {:.4f}, if settings", shared[0], shared_p[0])
    yield said("and setting r = {:.2f}, p = {:.3f}.", strict[0], strict_p[0])
    yield said(
        "CE: {:.2f}, p = {}, and {:.2f}, p = {:.3f}.", shared[1], exponent(shared_p[1], 0), strict[1], strict_p[1]
    )


def eq_8() -> Iterator[Saying]:
    header, ways = "| model | law | parameters", ("cell", "setting", "group")
    phi3, phi3_line, llama3, llama3_line = (
        [number(header, f"leave {way} out", model, law) for way in ways]
        for model in MODELS
        for law in ("additive", "share")
    )
    assert all(line < own for line, own in zip(phi3_line, phi3, strict=True))
    assert [line < own for line, own in zip(llama3_line, llama3, strict=True)] == [False, True, False]
    for model in MODELS:  # settings of the same cells
        (n,) = {number(header, "cells of settings", model, law) for law in ("additive", "share")}
        assert n == 20
    words = "{:.4f}, {:.4f} and {:.4f} against {:.4f}, {:.4f} and {:.4f}"
    yield said(f"Phi3: {words} of a straight line", *phi3, *phi3_line)
    yield said(f"LLaMA3: {words}. The exponent", *llama3, *llama3_line)
    alpha = [number("| cells | model | parameter", "estimate", "as printed", model, "alpha") for model in MODELS]
    words = "the exponent of N is {:.1f} and {:.1f}, from {:.2f} and {:.2f} decades"
    yield said(words, *alpha, *decades().loc[list(MODELS)])


def tables() -> Iterator[Saying]:
    study = paper_study()
    folder = files("lorascope.study") / "paper"
    yield said("prints {} tables", count(sum(one.name.endswith(".csv") for one in folder.iterdir())))
    claim = "table 2: MIUB ranks the prompts Prompt1 > Main > Prompt3 > Prompt2 in every setting"
    because = cell("| claim | verdict | because", "because", claim)
    ordered, lowest = because.partition(" (")[0], because.rpartition(" ")[2]
    yield said("| {} |", ordered)
    yield said("Prompt2 is the lowest in all {}", lowest)
    averages = cell("| claim | verdict | because", "because", "AVG is the plain mean of its members")
    yield said("{} cells differ by more than rounding", averages.partition(" differ")[0])
    n_groups, n_models = (count(study[name].nunique()) for name in ("block", "model"))
    yield said("There are {} groups but only {} models", n_groups, n_models)


def slips() -> Iterator[Saying]:
    yield quoted('the text gives prompt 1 "one positive and one negative example"', place="section 3.2")
    yield quoted("prompt 1 is described twice", place="section 3.2")
    yield quoted("prompt 2 has a positive and a negative one", place="section 3.2")
    yield said("a model of {} layers", max(LAYERS.values()))
    sizes = paper_study().query("model == 'Phi3'")["N"]
    yield said("and {:.1f} {} parameters", sizes.max() / 1e9, "billion")
    yield quoted('"seven benchmark datasets"', place="conclusion")
    n_sets = paper_study()["dataset"].nunique()
    texts = ("PTB", "WikiText-2")
    yield said("the tables have {}; with the texts of figure 2", count(n_sets))
    yield said("({} and {}) there are {}", *texts, count(n_sets + len(texts)))
    misprinted = paper_table(1).query("dataset == 'ARCE' and model == 'LLaMA3' and metric == 'MIUB'")
    read = misprinted.set_index("setting")["value"]["share8"]
    yield quoted('share8 is "3779.9.2"', place="table 1")
    yield said("{} decimal points; we read {}", count("3779.9.2".count(".")), read)
