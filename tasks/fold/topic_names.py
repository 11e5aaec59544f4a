"""Checks names of Kafka topics. Pure."""

import re
from functools import lru_cache

MAX_TOPIC_CHARACTERS = 249
_TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]+")


def topic_name_flaw(name: object) -> str | None:
    """Returns the reason why this is not a valid name of a Kafka topic, None for a valid name."""
    if not isinstance(name, str):
        return f"the name of a topic must be a string, not {type(name).__name__} {name!r:.80}"
    return _text_flaw(name)


@lru_cache(maxsize=1_000)
def _text_flaw(name: str) -> str | None:
    if _TOPIC_NAME.fullmatch(name) and len(name) <= MAX_TOPIC_CHARACTERS and name not in {".", ".."}:
        return None
    return (
        f"Kafka has no topic named {name!r:.80}: a name has 1 to {MAX_TOPIC_CHARACTERS} letters, digits, '.',"
        " '_' and '-', and is not '.' or '..'"
    )
