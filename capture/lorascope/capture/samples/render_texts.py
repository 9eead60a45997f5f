"""Rendering of chats by a Jinja template of transformers; it runs in a `ConfinedProcess`, so it imports little."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from transformers.utils.chat_template_utils import render_jinja_template

MAX_CHARACTERS = 2**26
"""Most characters of a rendered chat, as many as the text of a sample may have."""
MAX_REASON = 1000
"""Most characters of the message with which a template refuses a chat; the rest is cut off."""
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Rendered(NamedTuple):
    """Text of a chat as a template writes it, or the reason why it refuses the chat."""

    text: str
    assistant_spans: list[list[int]]
    """Spans (start, stop), in characters, that the template marks as the assistant's."""
    refusal: str = ""


def marks_assistant(template: str) -> bool:
    """Return whether a template marks what the assistant says with `{% generation %}`."""
    return _GENERATION.search(template) is not None


def render_texts(requests: Any) -> Iterator[Rendered]:
    """Render each of the `chats` (lists of messages) of each request by its template, with its tools and options."""
    for request in requests:
        marks = marks_assistant(request["template"])
        for number, chat in enumerate(request["chats"]):
            yield _render(request, chat, marks=marks and number == 0)


def _render(request: Any, chat: Any, *, marks: bool) -> Rendered:
    """Return a chat as `apply_chat_template` renders it: without fields that are null, and without a prompt's end."""
    messages = [{key: value for key, value in message.items() if value is not None} for message in chat]
    try:
        rendered: Any = render_jinja_template(
            conversations=[messages],
            tools=request["tools"],
            chat_template=request["template"],
            return_assistant_tokens_mask=marks,
            **request["options"],
        )
        (text,), spans = rendered
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"it would have {len(text)} characters; allowed are {MAX_CHARACTERS}")
        text.encode()  # half of a surrogate pair may stand in whatever else the template writes
    except MemoryError:
        raise
    except Exception as error:  # a template can raise anything
        return Rendered("", [], " ".join(str(error)[:MAX_REASON].split()) or type(error).__name__)
    return Rendered(text, spans[0] if marks else [])
