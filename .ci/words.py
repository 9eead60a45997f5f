"""Check the words of library and docs: `words.py [PATH...]` lists findings, `words.py --counts` counts them.

A name is a noun that says what it holds, no participle that leaves the reader to guess of what. The first line of a
public docstring makes sense to somebody who sees it alone: it has a subject, or starts with a verb. No docstring,
message or page of the docs uses a phrase that readers had to read twice.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
ROOMS = [f"{room}/lorascope" for room in ("stores", "capture", "analyze", "study", "cli")]
DOCS = ("README.md", "docs")
STORED = {
    ROOT / "stores/lorascope/stores/format/layout.py": "its texts are stored, and equal in all runs of a version",
}
"""File whose phrases outside of docstrings aren't checked -> the reason."""
NAMES = {
    "one": "what it is one of, such as `sample`", "found": "what was found, such as `tokens`", "kept": "`stored`, ...",
    "given": "what was given, such as `options`", "wanted": "`expected`, ...", "held": "what is held", "seen": "a noun",
    "there": "`existing`, ...", "told": "`reported`", "said": "`message`", "untold": "`uncovered`", "heard": "a noun",
    "gone": "`missing`, ...", "begun": "`started`",
}  # fmt: skip
"""Name that says too little -> what to write instead."""
PARTS = ("told", "said", "untold", "gone", "begun", "heard")
"""Words that aren't the first or last part of a name either, such as `told_choice`."""
PHRASES = (
    *("but_first", "going_on", "n_before_own", "in_words", "acts", "specify", "readings", "straight", "shelf"),
    "takers",
)  # fmt: skip
"""Names whose grammar is that of a sentence, or that say nothing of what they are about."""
FIRST = re.compile(
    r"(Of|That|Those|These|The same|Whose|What|Which|Who|Where|How|As|And|But|For|There|It|They|Is|Has|To)\b"
    r"|[a-z]\w* [a-z]"
)
"""Beginnings of a docstring's first line that leave the subject to the reader."""
THOSE = re.compile(r"\bthose( [\w`()']+){0,3} that\b", re.IGNORECASE)
"""Words of a docstring's first line that point at a noun elsewhere."""
TWICE = {
    r"of (which|whom)|by which": "two sentences", r"so (many|much)": "`this many`, or the number",
    r"puts? out": "`outputs`, `returns`", r"beside": "`next to`, `with`, `compared with`", r"but for": "`except`",
    r"anew": "`again`",
    r"becomes? of": "`results`", r"that (is|are|was|were) there": "`existing`", r"go(es)? by": "`uses`, `depends on`",
    r"(has|have|there (is|are|was|were)) none": "`no ...`", r"left out": "`excluded`", r"taken for": "`treated as`",
    r"(tells|told|untold)( apart)?": "`reports`, `says`, `distinguish`",
}  # fmt: skip
"""Phrase that readers had to read twice (a regular expression) -> what to write instead."""


class Finding(NamedTuple):
    """A name or a first line that isn't plain."""

    path: Path
    line: int
    kind: str
    message: str


def names_in(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of everything that the module gives a name to."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def first_lines(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Line, name and first line of every public docstring, those below constants and fields among them."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        name = getattr(node, "name", "module")
        if not name.startswith("_") and (text := ast.get_docstring(node)):
            yield getattr(node, "lineno", 1), name, text.partition("\n")[0]
        if name.startswith("_") or not isinstance(node, ast.Module | ast.ClassDef):
            continue
        for target, below in zip(node.body, node.body[1:], strict=False):
            named = target.targets[0] if isinstance(target, ast.Assign) else getattr(target, "target", None)
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(named, ast.Name) and is_text and not named.id.startswith("_"):
                yield below.lineno, named.id, str(below.value.value).partition("\n")[0]


def texts(tree: ast.Module, *, docstrings_only: bool) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring; also of every other string with a space, unless `docstrings_only`."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or " " not in node.value:
            continue
        if id(node) in docstrings or not docstrings_only:
            yield node.lineno, node.value


def phrases(text: str, line: int) -> Iterator[tuple[int, str, str]]:
    """Line, phrase and what to write instead, for every phrase of `TWICE` in a text that begins at `line`."""
    for pattern, better in TWICE.items():
        for match in re.finditer(rf"\b({pattern})\b", text, re.IGNORECASE):
            yield line + text[: match.start()].count("\n"), match[0], better


def findings(path: Path) -> Iterator[Finding]:
    """What isn't plain in a file, its own name among it; of a page of the docs, its phrases."""
    if path.suffix == ".md":
        for line, phrase, better in phrases(path.read_text(encoding="utf-8"), 1):
            yield Finding(path, line, "text", f"{phrase!r}: write {better}")
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for line, name in [(1, path.stem), *names_in(tree)]:
        word = name.strip("_").lower()
        ends = {word.split("_")[0], word.split("_")[-1]}
        if word in NAMES or word in PHRASES or ends & {*PARTS}:
            better = NAMES.get(word) or next((NAMES[part] for part in PARTS if part in ends), "a noun")
            yield Finding(path, line, "name", f"`{name}`: write {better}")
    for line, name, text in first_lines(tree):
        if FIRST.match(text):
            yield Finding(path, line, "docstring", f"`{name}`: {text[:40]!r} needs a subject, or a verb")
        if match := THOSE.search(text):
            yield Finding(path, line, "docstring", f"`{name}`: {match[0]!r}: write the noun")
    for start, text in texts(tree, docstrings_only=path in STORED):
        for line, phrase, better in phrases(text, start):
            yield Finding(path, line, "text", f"{phrase!r}: write {better}")


def main(words: list[str]) -> int:
    """List findings of folders and return 1 if there are any; with `--counts` print how many each room has."""
    counting = "--counts" in words
    folders = [ROOT / word for word in words if word != "--counts"] or [ROOT / room for room in (*ROOMS, *DOCS)]
    inside = (
        folder.rglob("*.md" if folder == ROOT / "docs" else "*.py") if folder.is_dir() else [folder]
        for folder in folders
    )
    files = sorted(path for paths in inside for path in paths)
    every = [finding for path in files for finding in findings(path)]
    if counting:
        counts = Counter((str(f.path.parent.relative_to(ROOT)), f.kind) for f in every)
        counts += Counter(("in all", f.kind) for f in every)
        for room in sorted({room for room, _ in counts}):
            numbers = " ".join(f"{counts[room, kind]:4} {kind}s" for kind in ("name", "docstring", "text"))
            print(f"{room:45} {numbers}")
        return 0
    for finding in every:
        print(f"{finding.path.relative_to(ROOT)}:{finding.line}: {finding.message}")
    return int(bool(every))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
