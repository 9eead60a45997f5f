"""One trial: a command that is killed or asked to stop, started again until it is finished, and compared."""

import random
import shutil
import signal
import time
from pathlib import Path
from typing import NamedTuple

import phases
import processes
from processes import Running
from same_store import differences

COPY = ("set-up", "chunk write", "digest write", "finish")
TARGETS = {
    "capture": ("scoring", "forward", *COPY),
    "pull": COPY,
    "study run": tuple(phases.STUDY_STEPS.values()),
}
"""Command -> phases of it that are waited for."""
AGAIN = 0.35
"""Probability that a process which resumes is killed as well."""
GRACE = 10.0
"""Seconds that a killed process may take to go."""
PATIENCE = 180.0
"""Seconds after which a process that should have ended hangs."""


class Killed(NamedTuple):
    """One kill."""

    phase: str
    resumed: bool
    passing: bool
    """Whether a forward pass that captures was under way, in whatever phase the writers were."""
    n_rows: int
    """Rows committed until then."""
    lines: list[str]
    """What the other ranks said as they ended."""


class Trial(NamedTuple):
    """One store, or study, killed until it was finished."""

    command: str
    kills: list[Killed]
    differences: list[str]
    n_starts: int


class Stopped(NamedTuple):
    """One capture that a signal stopped."""

    signal: str
    phase: str
    code: int
    seconds: float
    """From the signal to the end of the process."""
    n_further: int
    """Rows committed after the signal."""
    n_litter: int
    """Files left unfinished."""
    same: bool
    """Whether the store equals the undisturbed one after a second start."""
    words: str
    """The last line it printed."""


class Bench(NamedTuple):
    """What all trials share."""

    folder: Path
    command: str
    words: list[str]
    out: Path
    reference: Path
    how: str
    n_ranks: int
    seconds: float
    """Time that it takes undisturbed."""
    chance: random.Random

    @property
    def notes(self) -> Path:
        """Where each process notes what its threads do."""
        return self.folder / "notes"

    @property
    def n_rows(self) -> int:
        """Rows of the finished run; 0 of a study."""
        return phases.committed(self.reference)

    def phase(self, stacks: str, *, resumed: bool) -> str:
        """In which phase it was, from what it left and what its threads were doing."""
        if self.command != "study run":
            return phases.phase(self.out, stacks, resumed=resumed)
        n_results = [len(phases.names_in(folder / "results")) for folder in (self.out, self.reference)]
        return phases.ENDED if n_results[0] == n_results[1] else phases.study_phase(stacks)

    def start(self, n_ranks: int) -> Running:
        """The command, as one process or as many."""
        for file in self.notes.iterdir():
            file.unlink()
        if n_ranks == 1 and self.how == "fork":
            return processes.fork(self.words, self.notes, self.folder / "log")
        return processes.command(self.words, self.notes, self.folder / "log", n_ranks)

    def stacks(self, running: Running) -> str:
        """What its threads do, or did last."""
        return "\n".join(phases.noted(self.notes, pid) for pid in running.ranks() or [running.pid])


def undisturbed(bench: Bench, n_ranks: int) -> None:
    """The command to its end; SystemExit with its last words if it fails."""
    running = bench.start(n_ranks)
    if code := running.wait(PATIENCE):
        raise SystemExit(f"an undisturbed `{bench.command}` ended with {code}:\n{running.last_words()}")


def run_trial(bench: Bench) -> Trial:
    """Start, kill and restart until the run is finished, then compare; after a kill that came too late, begin again."""
    while True:
        shutil.rmtree(bench.out, ignore_errors=True)
        kills: list[Killed] = []
        n_starts = 1
        running = bench.start(bench.n_ranks)
        while killed := kill_at_random(bench, running, resumed=n_starts > 1):
            if not killed.phase.startswith(phases.ENDED):
                kills.append(killed)
            running = bench.start(bench.n_ranks if bench.n_ranks == 1 else bench.chance.randint(1, bench.n_ranks + 1))
            n_starts += 1
            if bench.chance.random() > AGAIN:
                break
        while code := running.wait(PATIENCE):
            if not phases.died_of_watching(running.log.read_text(errors="replace")):
                raise SystemExit(f"`{bench.command}`, killed in {kills}, ended with {code}:\n{running.last_words()}")
            print("a process died of being watched and was started again", flush=True)
            running = bench.start(bench.n_ranks)
            n_starts += 1
        if kills:
            return Trial(bench.command, kills, differences(bench.reference, bench.out), n_starts)


def kill_at_random(bench: Bench, running: Running, *, resumed: bool) -> Killed | None:
    """Kill it at some moment, which may lie between the run's end and the process's; None if it ended before."""
    wait_for_moment(bench, running)
    ranks = running.ranks()
    if running.poll() is not None or not ranks:
        return None
    stacks, who = bench.stacks(running), ""
    if running.n_ranks == 1:
        running.send(signal.SIGKILL)
    elif bench.chance.random() < 1 / 3:
        running.kill_all()
        who = ", all ranks"
    else:
        running.send(signal.SIGKILL, bench.chance.choice(ranks))
        who = ", one rank"
    code = running.wait(PATIENCE)
    if left := processes.kill_survivors(ranks, GRACE):
        raise SystemExit(f"{len(left)} ranks still ran {GRACE:.0f} s after the others had ended{who}")
    at = bench.phase(stacks, resumed=resumed)
    if code == 0:
        return None
    return Killed(at + who, resumed, phases.passing(stacks), phases.committed(bench.out), running.errors())


def wait_for_moment(bench: Bench, running: Running) -> None:
    """Until a random time, or a little after a phase has begun that is waited for; or until the process ends."""
    began, chance = time.monotonic(), bench.chance
    target = chance.choice(TARGETS[bench.command]) if chance.random() < 0.5 else ""
    # Most writes are over within a few milliseconds, a step of a study isn't.
    after = 0.02 if bench.n_rows else bench.seconds / 8
    delay = chance.choice((0.0, chance.uniform(0, after))) if target else chance.uniform(0, bench.seconds)
    n_rows = chance.randrange(max(bench.n_rows, 1))
    while running.poll() is None and time.monotonic() - began < PATIENCE:
        if running.ranks() and (not target or reached(bench, running, target, n_rows)):
            break
        time.sleep(0.0002)
    # A launcher and its imports don't count as the run.
    stop = (time.monotonic() if target or bench.n_ranks > 1 else began) + delay
    while running.poll() is None and time.monotonic() < stop:
        time.sleep(0.0005)


def reached(bench: Bench, running: Running, target: str, n_rows: int) -> bool:
    """Whether that phase has begun; writes and digests count once `n_rows` rows are committed."""
    if bench.command == "study run":
        return phases.study_phase(bench.stacks(running)) == target
    if target == "scoring":
        return "scoring." in bench.stacks(running)
    if target == "set-up":
        return bool(phases.names_in(bench.out)) and "static_digest" not in phases.attributes(bench.out)
    n_committed = phases.committed(bench.out)
    if target == "finish":
        return n_committed == bench.n_rows
    if n_committed < n_rows:
        return False
    if target == "digest write":
        names = phases.names_in(bench.out / "rows" / "commit")
        return n_committed > n_rows or any(name.endswith(".partial") for name in names)
    return target == "forward" or bool(phases.litter(bench.out))


def run_stop(bench: Bench, index: int) -> Stopped:
    """SIGTERM or SIGINT, in turns, at a random moment of a capture; then a second start."""
    number = (signal.SIGTERM, signal.SIGINT)[index % 2]
    while True:
        shutil.rmtree(bench.out, ignore_errors=True)
        running = bench.start(bench.n_ranks)
        time.sleep(bench.chance.uniform(0.1, bench.seconds))
        n_before, stacks, began = phases.committed(bench.out), bench.stacks(running), time.monotonic()
        running.send(number)
        code = running.wait(PATIENCE)
        if code == 0:  # it came after the end
            continue
        seconds = time.monotonic() - began
        at = phases.phase(bench.out, stacks, resumed=False)
        n_further, n_litter = phases.committed(bench.out) - n_before, len(phases.litter(bench.out))
        words = (running.last_words().splitlines() or [""])[-1]
        undisturbed(bench, 1)
        same = not differences(bench.reference, bench.out)
        return Stopped(number.name, at, code, seconds, n_further, n_litter, same, words)
