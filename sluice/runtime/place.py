"""How a partition is named: everywhere the same pair."""

from typing import TypeAlias

Place: TypeAlias = tuple[str, int]
"""A partition: (topic, number)."""
