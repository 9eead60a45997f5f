"""Where the committed files lie."""

from importlib import resources
from pathlib import Path

SPLITS = ("train", "test")


def facts_path(split: str) -> Path:
    """Return the path of one split's JSON Lines file.

    Parameters
    ----------
    split : str
        "train" or "test".

    Raises
    ------
    ValueError
        If `split` is another word.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` is {split!r}; the facts have the splits {SPLITS}, take one of these")
    return Path(str(resources.files(__package__) / "data" / f"facts.{split}.jsonl"))
