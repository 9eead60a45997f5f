"""Write the two files of items: `python -m lorascope.cli.facts`."""

from random import Random

from .files import SPLITS, facts_path
from .generate import SEED, make_items, to_json_lines


def main() -> None:
    """Write both splits over the committed files."""
    for split, items in zip(SPLITS, make_items(Random(SEED)), strict=True):  # noqa: S311 (no secret is drawn)
        facts_path(split).write_text(to_json_lines(items), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
