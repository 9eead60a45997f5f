"""Short prompts that a model replies to, so that one sees what an adapter changed: thirty of ours, or a user's own."""

from importlib.resources import files
from pathlib import Path

from lorascope.stores.format.spec import MAX_REPLIES
from lorascope.stores.format.tables import REPLY_SCALES
from lorascope.stores.json_document import parse_json

from .sources import read_text

MAX_PROMPTS = MAX_REPLIES // len(REPLY_SCALES)
"""Most prompts of a capture, whose replies a run can keep."""


def read_reply_prompts(source: bool | str) -> list[str]:
    """Return the prompts to reply to: thirty of ours for True, those of a file for its path, none for False.

    A file in .txt has a prompt on each line, one in .jsonl an object with `prompt`. Blank lines are skipped.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If its name has another ending, a line isn't as described, a prompt is twice, or there are no prompts or more
        than 16,384.
    """
    if source is False:
        return []
    if source is True:
        return (files(__package__) / "reply_prompts.txt").read_text(encoding="utf-8").splitlines()
    path = Path(source)
    if path.suffix not in (".txt", ".jsonl"):
        raise ValueError(
            f"`replies` is {source!r}; name a file in .txt with a prompt on each line or in .jsonl, or no file for ours"
        )
    prompts: dict[str, int] = {}
    text = read_text(path, "file of prompts", "one in .txt or .jsonl")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        prompt = line.strip() if path.suffix == ".txt" else _prompt_of_record(line, f"{path}, line {number}")
        if prompt in prompts:
            raise ValueError(f"{path}, line {number}: {prompt!r} is on line {prompts[prompt]} already; give it once")
        prompts[prompt] = number
    if not 0 < len(prompts) <= MAX_PROMPTS:
        raise ValueError(f"{path}: it has {len(prompts)} prompts; give 1 to {MAX_PROMPTS}")
    return list(prompts)


def _prompt_of_record(line: str, place: str) -> str:
    """Return the `prompt` of a line of JSON; raise ValueError, naming the place, if it has no such text."""
    match parse_json(line.encode(), place):
        case {"prompt": str(prompt)} if prompt.strip():
            return prompt
    raise ValueError(f'{place}: it is {line[:100]!r}; write {{"prompt": "Tell me about your day."}}')
