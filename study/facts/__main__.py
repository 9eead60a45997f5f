"""Write the demo's two files of questions into a folder, by default the package's: `python study/facts [FOLDER]`."""

import sys
from pathlib import Path
from random import Random

from generate import SEED, make_items, to_json_lines

HERE = Path(__file__).parents[1] / "lorascope/study/facts"


def main(folder: Path) -> None:
    """Write both splits."""
    for split, items in zip(("train", "test"), make_items(Random(SEED)), strict=True):
        (folder / f"facts.{split}.jsonl").write_text(to_json_lines(items), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
