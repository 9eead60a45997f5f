"""Where a command stands: what its threads are doing, and what lies in its folder.

`watch` runs inside the process under test and notes every two milliseconds, in a file that outlives it, which
functions of lorascope its threads are in. Everything else looks from outside, after the process is dead.
"""

import faulthandler
import json
import mmap
import os
import sys
import threading
import time
from pathlib import Path
from types import FrameType

N_BYTES = 8192
ENDED = "after the end"
STUDY_STEPS = {"steps._train": "training", "steps._capture": "capture", "steps._measure": "measuring"}
"""Function of a study's unit -> what it does."""
SITE = """import os
if "CAPTURE_PHASES" in os.environ:
    import sys
    sys.path.insert(0, os.environ["CAPTURE_PHASES_CODE"])
    from pathlib import Path
    from phases import watch
    watch(Path(os.environ["CAPTURE_PHASES"]))
"""
"""A `sitecustomize.py` that makes any Python process watch itself."""


def watch(folder: Path, seconds: float = 0.002) -> None:
    """Begin to note where this process's threads stand, in `folder/<process id>`.

    In a few of a million times Python 3.11 itself dies of it; then its last words tell that it was this thread.
    """
    faulthandler.enable()
    with open(folder / str(os.getpid()), "w+b") as file:
        file.truncate(N_BYTES)
        memory = mmap.mmap(file.fileno(), N_BYTES)

    def loop() -> None:
        own = threading.get_ident()
        while True:
            chains = [chain(frame) for thread, frame in sys._current_frames().items() if thread != own]
            memory[:] = "\n".join(filter(None, chains)).encode()[: N_BYTES - 1].ljust(N_BYTES, b"\0")
            time.sleep(seconds)

    threading.Thread(target=loop, name="phases", daemon=True).start()


def died_of_watching(last_words: str) -> bool:
    """Whether a process was killed by its own `watch`."""
    _, _, current = last_words.partition("Segmentation fault")
    return "phases.py" in current.lstrip().partition("\n\n")[0]


def chain(frame: FrameType | None) -> str:
    """The functions of lorascope that a thread is in, innermost first: `write._write_chunk < write.write_row`."""
    names = []
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("lorascope."):
            names.append(f"{module.rpartition('.')[2]}.{frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(names)


def noted(folder: Path, pid: int) -> str:
    """What `watch` noted last in that process; empty if it hadn't begun."""
    try:
        octets = (folder / str(pid)).read_bytes()
    except FileNotFoundError:
        return ""
    return octets.rstrip(b"\0").decode(errors="replace")


def litter(out: Path) -> list[Path]:
    """Files that a writer left unfinished."""
    return [Path(folder) / name for folder, _, names in os.walk(out) for name in names if name.endswith(".partial")]


def committed(out: Path) -> int:
    """Rows whose digest is there; all of a finished run."""
    root = attributes(out)
    if root.get("finished"):
        return int(root["n_rows"])
    folder = out / "rows" / "commit"
    return sum(name.startswith("c.") and not name.endswith(".partial") for name in names_in(folder))


def names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def attributes(out: Path) -> dict[str, object]:
    """The run's attributes; none while it isn't there."""
    try:
        return dict(json.loads((out / "zarr.json").read_bytes()).get("attributes", {}))
    except (FileNotFoundError, ValueError):
        return {}


def passing(stacks: str) -> bool:
    """Whether one of the threads was in a forward pass that captures."""
    return "forward.forward < stream." in stacks


def phase(out: Path, stacks: str, *, resumed: bool) -> str:
    """In which phase the process was, from what it left and what its threads were doing."""
    about = attributes(out)
    if about.get("finished"):
        return ENDED
    left = [file.relative_to(out).as_posix() for file in litter(out)]
    if "static_digest" not in about:
        return "set-up" if names_in(out) else "scoring" if "scoring." in stacks else "loading, checks"
    if any(name.startswith("rows/") for name in left):
        return "digest write"
    if any("/" not in name for name in left) or committed(out) == about.get("n_rows"):
        return "finish"
    if left:
        return "chunk write"
    if "write_row" in stacks:
        return "encode, flush"
    if "copy_rows." in stacks:
        return "reading the source"
    if "stream_states" in stacks or "stream." in stacks:
        return "forward"
    return "resuming: loading, checks" if resumed else "before the first row"


def study_phase(stacks: str) -> str:
    """Which step of a unit a study was at."""
    return next((step for function, step in STUDY_STEPS.items() if function in stacks), "loading, between steps")
