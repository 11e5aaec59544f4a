"""`sluice init --no-topics` opens no connection to Kafka."""

from sluice.admin.init import initialise
from sluice.runtime.service_urls import StackUrls
from sluice.tasks.fold.registry import collect_handlers


def test_without_topics_init_needs_no_kafka(database_url: str) -> None:
    urls = StackUrls(database_url, "redis://127.0.0.1:1/0", "127.0.0.1:1")
    registry = collect_handlers("examples.shop.handlers")
    made = initialise(urls, registry, with_topics=False)
    assert made.topics == []
    assert "orders" in made.tables
    assert set(made.shards) == set(registry.entities)
