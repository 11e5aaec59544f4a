"""Code that declares the new topic of `rolling_new_app` but not the topic of `rolling_old_app`."""

from sluice import Entity, Topic
from tests.system.worker.rolling_new_app import greet, tell_news

__all__ = ["greet", "tell_news", "topics"]

topics = (Topic("rolling-news", entity=Entity("thing", shards=4)),)
