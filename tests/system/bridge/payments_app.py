"""The shop without its other topics: a bridge that has nothing else to read."""

from examples.shop import topics as shop
from examples.shop.handlers.payments import *  # noqa: F403
from sluice import Topic

topics: tuple[Topic, ...] = tuple(topic for topic in shop.topics if topic.name == "payments")
