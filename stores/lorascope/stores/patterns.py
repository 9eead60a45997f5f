"""Regular expressions that somebody else wrote: how long Python's matcher would try them on the names at hand.

That matcher tries one way after the other, and some expressions have more ways to read a name than there is time. So
its steps are counted before it sees the expression, without taking them: how many there are from a place of the
expression and of the name on is found once, however many ways lead there.
"""

import re
import warnings
from collections.abc import Collection, Iterable, Sequence
from re import _compiler, _constants, _parser  # type: ignore[attr-defined]  # as Python reads expressions itself
from typing import Any, NamedTuple

MAX_LENGTH = 2**17
"""Characters of all expressions together."""
MAX_NODES = 4096
"""Places in an expression, its counted repeats written out."""
MAX_STEPS = 200_000
"""Steps of the matcher on one name, some milliseconds; expressions in use take some hundred."""
MAX_ALL_STEPS = 200_000_000
"""Steps on all names, some seconds."""
MAX_STATES = 4_000_000
"""Places of expressions in names that are looked at here, some seconds too."""
MAX_KEPT = 500_000
"""Places remembered at a time, in some 100 MB; a mixture of experts has 20,000 names."""

_ATOMS = frozenset({_constants.LITERAL, _constants.NOT_LITERAL, _constants.ANY, _constants.IN, _constants.AT})
_LOOKS = frozenset({_constants.ASSERT, _constants.ASSERT_NOT})

Flags = tuple[tuple[int, int], ...]


class Pattern(NamedTuple):
    """An expression, and how it is used."""

    what: str
    """What an error calls it, as a sentence begins: "`target_modules` is '.*'"."""
    text: str
    """The expression as `re` gets it."""
    whole: bool = False
    """Whether it has to fit a whole name (`re.fullmatch`), or its beginning (`re.match`)."""


class _Node(NamedTuple):
    """A place in an expression: it takes characters, or tries what is within, and then its ways in their order."""

    ways: tuple[int, ...]
    atom: Any = None
    """Takes a fixed number of characters, or none at a border; compiled."""
    within: int | None = None
    """First node of what is tried by itself, and not entered again from behind."""
    look: int | None = None
    """Characters before this place at which a look ahead or behind begins, which itself takes none."""
    wanted: bool = True
    """Whether what is within should succeed."""


_Reached = tuple[int, int | None]
"""What comes of a place in an expression at a place in a name: steps to the first success, or until all is tried; and
the characters of the name behind that success, None where there is none."""


class _Tree:
    """The nodes of a parsed expression; node 0 is success."""

    def __init__(self, pattern: Pattern) -> None:
        self.what = pattern.what
        re.compile(pattern.text)  # finds a few mistakes that parsing doesn't
        self.parsed = _parser.parse(pattern.text)
        self.nodes = [_Node(())]
        self.widths: dict[int, int] = {}
        """Characters that a node takes, or takes at least."""
        self.context = 1
        """Characters before a place on which it depends what happens there."""
        end = self._atom([(_constants.AT, _constants.AT_END_STRING)], (), 0) if pattern.whole else 0
        self.start = self._sequence(self.parsed, (), end)

    def count(self, name: str, tails: dict[tuple[int, str], int], known: dict[int, _Reached]) -> int:
        """Steps of the matcher on a name; `tails` and `known` remember what was found, for names that end alike."""
        n, width, nodes = len(name), self.context, self.nodes
        ends = [
            len(nodes) * tails.setdefault((min(at, width), name[max(at - width, 0) :]), len(tails))
            for at in range(n + 1)
        ]
        stack = [(self.start, 0)]
        while stack:
            node, at = stack[-1]
            ways, atom, within, look, wanted = nodes[node]
            steps, left, needed = 1, n - at if node == 0 else None, None
            if atom is not None:
                found = atom.match(name, at)
                ways, at = ((), at) if found is None else (ways, found.end())
            elif within is not None:
                begin = at - (look or 0)
                inner = known.get(ends[begin] + within) if begin >= 0 else (0, None)
                if inner is None:
                    ways, needed = (), (within, begin)
                else:
                    steps += inner[0]
                    ways = ways if (inner[1] is not None) == wanted else ()
                    at = n - inner[1] if look is None and inner[1] is not None else at
            for way in ways:
                later = known.get(ends[at] + way)
                if later is None:
                    needed = way, at
                    break
                steps += later[0]
                if (left := later[1]) is not None:
                    break
            if needed is not None:
                stack.append(needed)
            else:
                node, at = stack.pop()
                known[ends[at] + node] = steps, left
        return known[ends[0] + self.start][0]

    def most(self, n: int) -> int:
        """Steps that the matcher doesn't exceed on any name of `n` characters: as if all had to be tried."""
        known: dict[tuple[int, int], int] = {}
        stack = [(self.start, 0)]
        while stack:
            node, at = stack[-1]
            ways, _, within, look, _ = self.nodes[node]
            behind = at + self.widths.get(node, 0)
            needed = [(way, behind) for way in ways if behind <= n]
            needed += [] if within is None or at < (look or 0) else [(within, at - (look or 0))]
            if (missing := next((one for one in needed if one not in known), None)) is not None:
                stack.append(missing)
            else:
                known[stack.pop()] = 1 + sum(known[one] for one in needed)
        return known[self.start, 0]

    def _refuse(self, why: str) -> None:
        raise ValueError(f"{self.what}, {why}; name the layers more simply")

    def _add(self, *node: Any, **more: Any) -> int:
        if len(self.nodes) >= MAX_NODES:
            self._refuse(f"which has more than {MAX_NODES} places with its repeats written out")
        self.nodes.append(_Node(*node, **more))
        return len(self.nodes) - 1

    def _atom(self, items: Sequence[Any], flags: Flags, then: int) -> int:
        part = _parser.SubPattern(self.parsed.state, [*items])
        for added, removed in reversed(flags):
            group = (_constants.SUBPATTERN, (None, added, removed, part))
            part = _parser.SubPattern(self.parsed.state, [group])
        node = self._add((then,), atom=_compiler.compile(part))
        self.widths[node] = part.getwidth()[0]
        return node

    def _sequence(self, part: Any, flags: Flags, then: int) -> int:
        """First node of a part of the expression, behind which it goes on at node `then`."""
        atoms: list[Any] = []
        for kind, value in reversed([(None, None), *part]):
            if kind in _ATOMS:
                atoms.insert(0, (kind, value))
                continue
            if atoms:
                then, atoms = self._atom(atoms, flags, then), []
            if kind is not None:
                then = self._item(kind, value, flags, then)
        return then

    def _item(self, kind: Any, value: Any, flags: Flags, then: int) -> int:
        if kind is _constants.SUBPATTERN:
            _, added, removed, part = value
            return self._sequence(part, (*flags, (added, removed)) if added or removed else flags, then)
        if kind is _constants.BRANCH:
            return self._add(tuple(self._sequence(part, flags, then) for part in value[1]))
        if kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT):
            return self._repeat(value, flags, then, is_greedy=kind is _constants.MAX_REPEAT)
        if kind is _constants.POSSESSIVE_REPEAT:
            return self._alone(self._repeat(value, flags, 0, is_greedy=True), value[0] * value[2].getwidth()[0], then)
        if kind is _constants.ATOMIC_GROUP:
            return self._alone(self._sequence(value, flags, 0), value.getwidth()[0], then)
        if kind in _LOOKS:
            width = value[1].getwidth()[0] if value[0] < 0 else 0
            self.context += width
            inner = self._sequence(value[1], flags, 0)
            return self._add((then,), within=inner, look=width, wanted=kind is _constants.ASSERT)
        if kind is not _constants.FAILURE:
            self._refuse("which refers to what a group of it has matched")
        return self._add(())

    def _alone(self, inner: int, width: int, then: int) -> int:
        """What isn't entered again from behind, of at least so many characters."""
        node = self._add((then,), within=inner)
        self.widths[node] = width
        return node

    def _repeat(self, value: tuple[int, int, Any], flags: Flags, then: int, *, is_greedy: bool) -> int:
        least, most, part = value
        if most is _constants.MAXREPEAT:
            if part.getwidth()[0] == 0:
                self._refuse("which repeats without end what may be empty")
            loop = self._add(())
            ways = self._sequence(part, flags, loop), then
            self.nodes[loop] = _Node(ways if is_greedy else ways[::-1])
            first = loop
        else:
            first = then
            for _ in range(most - least):
                ways = self._sequence(part, flags, first), then
                first = self._add(ways if is_greedy else ways[::-1])
        for _ in range(least):
            first = self._sequence(part, flags, first)
        return first


def check_patterns(patterns: Iterable[Pattern], names: Collection[str]) -> None:
    """Raise a ValueError where Python's matcher may take for ever over an expression on one of these names.

    Raises
    ------
    ValueError
        If an expression is none, refers to what its groups have matched, repeats without end what may be empty, or
        takes more than `MAX_STEPS` steps on a name; or if all are longer than `MAX_LENGTH` or take too many steps.
    """
    longest = max(map(len, names), default=0)
    n_characters = n_steps = n_states = 0
    for pattern in patterns:
        n_characters += len(pattern.text)
        if n_characters > MAX_LENGTH:
            raise ValueError(f"{pattern.what}, the last of {n_characters} characters; allowed are {MAX_LENGTH} in all")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of expressions that a later Python may read otherwise
                tree = _Tree(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            reason = "nested too deep" if isinstance(error, RecursionError) else error
            raise ValueError(f"{pattern.what}, no regular expression ({reason}); correct it") from error
        if all(len(node.ways) < 2 and node.within is None for node in tree.nodes):
            continue  # there is one way alone
        n_states += len(tree.nodes) * (longest + 1)
        most = tree.most(longest) if n_states <= MAX_STATES else MAX_STEPS + 1
        if most <= MAX_STEPS and n_steps + most * len(names) <= MAX_ALL_STEPS:
            n_steps += most * len(names)
            continue
        tails: dict[tuple[int, str], int] = {}
        known: dict[int, _Reached] = {}
        for name in names:
            found = tree.count(name, tails, known)
            n_steps += found
            if found > MAX_STEPS or n_steps > MAX_ALL_STEPS or n_states + len(known) > MAX_STATES:
                raise ValueError(
                    f"{pattern.what}, which may take for ever to match: on {name[:80]!r} or on all names more "
                    f"than {MAX_STEPS} or {MAX_ALL_STEPS} steps; name the layers more simply"
                )
            if len(known) > MAX_KEPT:
                n_states += len(known)
                tails, known = {}, {}
        n_states += len(known)
