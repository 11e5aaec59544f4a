"""Record header names that are not UTF-8, for producers of kafka-python."""


class RawName(str):
    """A header name that kafka-python writes into a record as the given bytes."""

    raw: bytes

    def __new__(cls, raw: bytes) -> "RawName":
        """Makes the name. As a text, the name is a placeholder of the same length."""
        made = super().__new__(cls, "?" * len(raw))
        made.raw = raw
        return made

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """Returns the bytes."""
        return self.raw
