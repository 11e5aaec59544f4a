"""Faults on demand: each fault affects a number of requests at one moment of their handling."""

import threading
from typing import Annotated, Literal, TypeAlias

import msgspec

Moment: TypeAlias = Literal["before", "during", "after"]
"""The moment: before the server reads the request; after it accepts the request and before it
acts; after it acts.
"""

Harm: TypeAlias = Literal["delay", "error", "drop"]
"""The action: wait `seconds` and continue; answer with `status`; or close the connection without
an answer.
"""


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """One fault for the next `times` requests.

    If `matching` is given, the fault is only for requests of this subject: the text that identifies
    a request, such as the recipient of a mail.
    """

    moment: Moment
    harm: Harm
    # Bounded: a fault must end even if no test removes it.
    times: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    matching: str | None = None
    seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None  # None: the server's own default


class FaultsRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `PUT /faults`, which replaces all remaining faults. An empty list removes them."""

    faults: list[Fault]


class FaultPlan:
    """The remaining faults, in the given order. Thread-safe."""

    def __init__(self, moments: frozenset[Moment]) -> None:
        """`moments` are the moments that the server supports; a fault at another moment is refused."""
        self._moments = moments
        self._left: list[Fault] = []
        self._lock = threading.Lock()

    def replace(self, faults: list[Fault]) -> None:
        """Replaces the faults. Raises ValueError for a moment that the server does not support."""
        for fault in faults:
            if fault.moment not in self._moments:
                raise ValueError(f"no moment {fault.moment!r} here, only {sorted(self._moments)}")
        with self._lock:
            self._left = list(faults)

    def take(self, moment: Moment, subject: str) -> Fault | None:
        """Returns the first fault for this moment and subject, and counts its use; None if there is none."""
        with self._lock:
            for fault in self._left:
                if fault.moment == moment and fault.matching in (None, subject):
                    fault.times -= 1
                    if not fault.times:
                        self._left.remove(fault)
                    return fault
        return None

    def left(self) -> list[Fault]:
        """Returns the remaining faults."""
        with self._lock:
            return list(self._left)
