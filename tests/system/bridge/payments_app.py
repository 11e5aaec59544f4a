"""The shop with the topic `payments` only, so that a bridge reads no other topic."""

from examples.shop import topics as shop
from examples.shop.handlers.payments import *  # noqa: F403
from sluice import Topic

topics: tuple[Topic, ...] = tuple(topic for topic in shop.topics if topic.name == "payments")
