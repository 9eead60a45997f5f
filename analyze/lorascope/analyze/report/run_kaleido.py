"""A process of its own that draws figures: `python run_kaleido.py FOLDER`, by its `figures.json`, into that folder."""

import json
import sys
from pathlib import Path


def main(folder: Path) -> None:
    """Draw what kaleido is asked for, without MathJax, which it would fetch; tell what can't be drawn, and go on."""
    from kaleido import write_fig_from_object_sync  # type: ignore[import-untyped]

    wanted = json.loads((folder / "figures.json").read_text())
    for error in write_fig_from_object_sync(wanted, kopts={"mathjax": False}):
        sys.stderr.write(f"{error}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
