"""Tests of handlers: a world in memory, and checks that any order and any crash leave the same."""

from sluice.testing.any_world import DeadLetter, State
from sluice.testing.calls import CallResult
from sluice.testing.incoming import Incoming
from sluice.testing.order_free import assert_order_free
from sluice.testing.world import World

__all__ = ["CallResult", "DeadLetter", "Incoming", "State", "World", "assert_order_free"]
