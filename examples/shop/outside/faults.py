"""Faults on demand: for the next so many requests, at a moment of their handling, do harm."""

import threading
from typing import Annotated, Literal, TypeAlias

import msgspec

Moment: TypeAlias = Literal["before", "during", "after"]
"""Before anything is looked at, between taking the request up and acting, after acting."""

Harm: TypeAlias = Literal["delay", "error", "drop"]
"""Wait `seconds` and go on; answer with `status`; close the connection without an answer."""


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """One harm for the next `times` requests. `matching`: only those about exactly this subject."""

    moment: Moment
    harm: Harm
    times: Annotated[int, msgspec.Meta(ge=1, le=1000)]  # bounded: a forgotten fault ends by itself
    matching: str | None = None
    seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None  # None: the server's own default


class FaultsRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `PUT /faults`: replaces all faults that are left; an empty list ends them."""

    faults: list[Fault]


class FaultPlan:
    """The faults that are left, in the order given. For any threads."""

    def __init__(self, moments: frozenset[Moment]) -> None:
        """`moments` are those the server has."""
        self._moments = moments
        self._left: list[Fault] = []
        self._lock = threading.Lock()

    def replace(self, faults: list[Fault]) -> None:
        """From now on these. Raises ValueError for a moment that the server has not."""
        for fault in faults:
            if fault.moment not in self._moments:
                raise ValueError(f"no moment {fault.moment!r} here, only {sorted(self._moments)}")
        with self._lock:
            self._left = list(faults)

    def take(self, moment: Moment, subject: str) -> Fault | None:
        """The first fault for this moment and subject, used up by one; None: nothing happens."""
        with self._lock:
            for fault in self._left:
                if fault.moment == moment and fault.matching in (None, subject):
                    fault.times -= 1
                    if not fault.times:
                        self._left.remove(fault)
                    return fault
        return None

    def left(self) -> list[Fault]:
        """Those not used up."""
        with self._lock:
            return list(self._left)
