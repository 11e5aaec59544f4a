"""Texts as Postgres can keep them. Pure."""

MAX_ERROR_CHARACTERS = 2_000  # of an error's text that is kept


def printable(text: str) -> str:
    """The text without NUL and lone surrogates."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
