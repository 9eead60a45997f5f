"""Watch of the processes (ranks) that compute one capture together: what ended one of them, all others know and say.

Without it, a rank whose partner is gone waits in torch for ever, or ends with an error of its network.

A thread in each rank counts up a number of its own every `BEAT` seconds, in the store of keys through which torchrun
connects processes, and looks at the numbers of the others. The first failure is stored there, as one line:

- A rank that ends by an error of its own stores it before it goes.
- If a rank gets a signal, or an error of torch.distributed, and another one's number stands still from then on for
  `SILENCE` seconds, that one was killed. Without such a sign, as when a whole process is frozen, it takes `PATIENCE`.
- A rank is stalled if its main thread used less than a second of a processor within `PATIENCE`, while it waited neither
  for other ranks, nor for a thread of its own (which writes rows, or hashes), nor for a download. So a slow machine, a
  long pass, weights of a terabyte, a slow disk, or a rank that has finished and waits for an hour never count.

A rank ends by itself where its main thread can still raise an error. This thread ends it where the main thread is
stalled, or still there `GRACE` seconds after a failure. Rows are durable once they are committed.
"""

import itertools
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import torch.distributed as dist

from lorascope.stores.visible import visible

from ..errors import SIGNALS, Interrupted, RankError, collecting_signals

BEAT = 0.5
"""Seconds between two looks at the other ranks."""
SILENCE = 5.0
"""Seconds without a beat after which a rank was killed, if a signal or an error says that something happened."""
GRACE = 20.0
"""Seconds that a rank has to end by itself once another one failed; torchrun kills it after 30."""
PATIENCE = 300.0
"""Seconds after which a rank that does nothing is stalled."""

_WAITING = ("torch/distributed/", "concurrent/futures/", "huggingface_hub/", "/threading.py")
"""Parts of the paths of files whose functions wait for other ranks, threads or downloads."""
_GOES_ON = "; committed rows stay, and the same command goes on"
_LEFT = "left"
"""Text in place of a rank's number once it has left the capture."""
_NUMBERS = itertools.count()
"""Numbers of this process's captures, so that each has keys of its own."""


@contextmanager
def watching(rank: int, size: int) -> Iterator[str]:
    """Watch rank `rank` of `size`, the calling thread, within the context, with all others that do.

    Yields a prefix for keys in the store that is this capture's own on all ranks.

    Raises
    ------
    RankError
        If the block raises an error of torch.distributed, or KeyboardInterrupt, because another rank failed.
    Interrupted
        If the block raises an error of torch.distributed because a signal stopped all ranks.
    """
    watch = _Watch(rank, size)
    in_main = threading.current_thread() is threading.main_thread()  # in which alone Python handles signals
    before = signal.set_wakeup_fd(watch.writer, warn_on_full_buffer=False) if in_main else -1
    watch.start()
    try:
        yield watch.prefix
    except BaseException as error:
        if (cause := watch.find_cause(error)) is not None:
            raise cause from error
        raise
    finally:
        if in_main:
            signal.set_wakeup_fd(before)
        watch.leave()


class _Watch(threading.Thread):
    """Thread that watches, and what it knows: when each rank last gave a sign of life, and the first failure."""

    def __init__(self, rank: int, size: int) -> None:
        """Prepare to watch the calling thread, which is rank `rank` of `size`."""
        super().__init__(name="lorascope-watch", daemon=True)
        self._rank, self._size = rank, size
        self.prefix = f"lorascope/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_NUMBERS)}"
        self._reader, self.writer = os.pipe()
        """Ends of a pipe into which Python writes the numbers of signals, also while the main thread waits in torch."""
        os.set_blocking(self.writer, False)
        self._main = threading.get_ident()
        self._moved = self._checked = time.monotonic()
        """When the main thread last did something or waited, and when its frames were last looked at."""
        self._used = -1
        """Seconds of a processor that the main thread has used."""
        self._beats: dict[int, bytes] = {}
        self._signs = {other: time.monotonic() for other in range(size) if other != rank}
        self._looked = float("-inf")
        """When the others were last looked at."""
        self._alarm = float("inf")
        """When a signal or an error last said that something happened; infinite before one did."""
        self._signal = 0
        """Number of a signal that this rank got, SIGINT or SIGTERM; 0 for none."""
        self._failure = self._own_error = ""
        self._leaves = False

    def leave(self) -> None:
        """End the thread; the others don't wait for this rank's number from now on."""
        self._leaves = True
        os.write(self.writer, b"\0")
        self.join(SILENCE)
        if not self.is_alive():
            os.close(self._reader)
            os.close(self.writer)

    def find_cause(self, error: BaseException) -> BaseException | None:
        """Return what `error` comes from, in another rank; None for an error of its own, which the others will read."""
        stopped = isinstance(error, KeyboardInterrupt)
        if stopped or _waits(reversed([frame for frame, _ in traceback.walk_tb(error.__traceback__)])):
            self._alarm = time.monotonic()
            with collecting_signals():  # torchrun's own may come now
                while not self._failure and (self._looked < self._alarm or self._silent_ranks()):
                    if time.monotonic() > self._alarm + 2 * SILENCE:
                        break
                    time.sleep(BEAT / 5)
            if self._failure:
                return RankError(self._failure)
            if stopped or self._signal:
                return None if stopped else Interrupted(self._signal, "")
            if left := [rank for rank, beat in self._beats.items() if beat == _LEFT.encode()]:
                return RankError(self._sentence(left[0], "was stopped"))
        self._own_error = self._sentence(self._rank, f"ended: {_one_line(error)}")
        return None

    def run(self) -> None:
        """Look at the others until this rank leaves; end this process where its main thread can't."""
        server = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        failed = float("inf")
        try:
            store = dist.PrefixStore(self.prefix, dist.TCPStore(*server, wait_for_workers=False))  # type: ignore[attr-defined]
            store.compare_set("failure", "", "")
            while not self._leaves:
                store.add(f"beat/{self._rank}", 1)
                self._look(store)
                if not self._failure and (frame := self._stalled_frame()) is not None:
                    at = traceback.extract_stack(frame, limit=1)[0]
                    what = f"hasn't moved for {PATIENCE:.0f} s (`{at.line}`, {at.filename}:{at.lineno})"
                    _end_process(_store_first(store, self._sentence(self._rank, what)))
                failed = min(failed, time.monotonic()) if self._failure else failed
                # Before all ranks have begun, the main thread waits for them in torch, where it can't raise an error.
                if time.monotonic() > failed + (GRACE if self._beats else 0):
                    _end_process(self._failure)
                numbers = os.read(self._reader, 64) if select.select([self._reader], [], [], BEAT)[0] else b""
                if stopping := {*numbers} & {*SIGNALS}:
                    self._alarm, self._signal = time.monotonic(), min(stopping)
            _store_first(store, self._own_error)
            store.set(f"beat/{self._rank}", _LEFT)
        except dist.DistError as error:
            self._failure = f"the process through which ranks are connected is gone ({_one_line(error)}){_GOES_ON}"
            ends = time.monotonic() + GRACE
            while not self._leaves:
                if time.monotonic() > ends:
                    _end_process(self._failure)
                time.sleep(BEAT)

    def _look(self, store: Any) -> None:
        """Read the first failure and, once all ranks have begun, their numbers; store that one gives no sign."""
        keys = ["failure", *(f"beat/{rank}" for rank in self._signs)]
        now = time.monotonic()
        all_started = store.check(keys)
        failure, *beats = store.multi_get(keys if all_started else keys[:1])
        for rank, beat in zip(self._signs, beats, strict=False):
            if beat == _LEFT.encode() or beat != self._beats.get(rank):
                self._beats[rank], self._signs[rank] = beat, now
        self._failure = failure.decode()
        is_alarmed = now > self._alarm + SILENCE
        if is_alarmed and not all_started:
            failing, what = [rank for rank in self._signs if not store.check([f"beat/{rank}"])], "didn't begin"
        elif is_alarmed and (failing := self._silent_ranks()):
            what = "ended without a word (killed, or out of memory)"
        else:
            failing = [rank for rank in self._beats if now - self._signs[rank] > PATIENCE]
            what = f"hasn't answered for {PATIENCE:.0f} s"
        if failing and not self._failure:
            self._failure = _store_first(store, self._sentence(failing[0], what))
        self._looked = now

    def _silent_ranks(self) -> list[int]:
        """Return the ranks that gave no sign since the last alarm; such as haven't begun aren't known yet."""
        since = self._alarm + 2 * BEAT  # a number may have been on its way
        return [rank for rank in self._beats if self._signs[rank] < since]

    def _stalled_frame(self) -> FrameType | None:
        """Return the frame in which the main thread has done nothing for `PATIENCE`, waiting for nobody; else None.

        Its frames are looked at only when it is idle, and then rarely.
        """
        find_clock = getattr(time, "pthread_getcpuclockid", None)  # macOS can't say what a thread has used
        now = time.monotonic()
        used = int(now if find_clock is None else time.clock_gettime(find_clock(self._main)))
        if used != self._used:
            self._used, self._moved = used, now
        elif now - self._checked > PATIENCE / 10:
            self._checked, frame = now, sys._current_frames()[self._main]
            if _waits(outer for outer, _ in traceback.walk_stack(frame)):
                self._moved = now
            elif now - self._moved > PATIENCE:
                return frame
        return None

    def _sentence(self, rank: int, what: str) -> str:
        """Return the line on a rank that did, or didn't do, `what`."""
        return f"rank {rank} of {self._size} {what}{_GOES_ON}"


def _store_first(store: Any, failure: str) -> str:
    """Store a failure for all ranks, unless another one is stored; return the stored one."""
    stored: bytes = store.compare_set("failure", "", failure)
    return stored.decode()


def _waits(frames: Iterable[FrameType]) -> bool:
    """Return whether a thread with these frames, innermost first, waits for other ranks, its threads or a download."""
    for frame in frames:
        path = frame.f_code.co_filename.replace(os.sep, "/")
        if any(part in path for part in _WAITING):
            return True
        if "/lorascope/" in path:
            break
    return False


def _one_line(error: BaseException) -> str:
    """Return an error's message on one line, or its type if the message is empty."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _end_process(failure: str) -> NoReturn:
    """Print a failure on stderr and end this process, whose main thread can't; the others have time to read it."""
    time.sleep(2 * BEAT)
    os.write(2, f"lorascope: error: {visible(failure)}\n".encode())
    os._exit(2)
