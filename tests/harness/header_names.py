"""Header names that are no text, for producers of kafka-python."""


class RawName(str):
    """A name that goes into a record as these very bytes."""

    raw: bytes

    def __new__(cls, raw: bytes) -> "RawName":
        """Makes the name; as text it is only as long."""
        made = super().__new__(cls, "?" * len(raw))
        made.raw = raw
        return made

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """Returns the bytes."""
        return self.raw
