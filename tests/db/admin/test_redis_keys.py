"""Keys of installations are listed and deleted by prefix, on a real Redis."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from sluice.admin import redis_keys
from sluice.admin.decisions import OperationRefused
from sluice.admin.redis_keys import (
    PrefixUse,
    delete_prefix,
    group_of,
    open_redis,
    read_prefixes,
    require_cleanable,
)
from sluice.db.delivery.living_processes import Process
from sluice.db.records import ProcessKind
from sluice.runtime.installation import NAME_PATTERN, Installation
from tests.mutants import mutated

OWN = Installation("sluice", UUID("11111111-0000-4000-8000-000000000000"))
OTHER = Installation("sluice-b", UUID("22222222-0000-4000-8000-000000000000"))
LEFT = ("unacked", "unacked_index", "_kombu.binding.sluice", "sluice:epoch", "order.0", "relay")
ALIVE = Process(uuid4(), ProcessKind.WORKER, "w@host", 7, 1, 1, None, {}, {}, ())


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with open_redis(redis_url) as client:
        yield client


def fill(client: Redis) -> None:
    for one in (OWN, OTHER):
        for number in range(5):
            client.rpush(f"{one.redis_prefix}order.{number}", "x" * 100)
    for key in LEFT:
        client.set(key, "y")


def test_keys_are_counted_by_prefix_and_keys_without_a_prefix_are_last(client: Redis) -> None:
    assert read_prefixes(client) == []
    fill(client)
    found = read_prefixes(client)
    assert [(one.group, one.keys) for one in found] == [(OWN.group, 5), (OTHER.group, 5), (None, len(LEFT))]
    assert all(one.bytes >= 5 * 100 for one in found[:2])
    assert all(one.idle_seconds is not None for one in found)


@pytest.mark.own("redis")
def test_a_server_that_evicts_by_frequency_reports_no_idle_time(client: Redis) -> None:
    client.config_set("maxmemory-policy", "allkeys-lfu")
    fill(client)
    assert [(one.keys, one.idle_seconds) for one in read_prefixes(client)] == [
        (5, None),
        (5, None),
        (6, None),
    ]


def test_the_idle_time_of_a_prefix_is_the_idle_time_of_its_last_used_key() -> None:
    assert PrefixUse("a").with_key(10, None).with_key(5, None) == PrefixUse("a", 2, 15, None)
    assert PrefixUse("a").with_key(10, 9).with_key(5, None).with_key(1, 3) == PrefixUse("a", 3, 16, 3)
    assert PrefixUse("a").with_key(None, None) == PrefixUse("a")


@pytest.mark.parametrize("page", [1, 3, 1_000])
def test_only_keys_of_the_given_prefix_are_deleted(
    client: Redis, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(redis_keys, "PAGE_KEYS", page)
    fill(client)
    steps: list[int] = []
    assert delete_prefix(client, OWN.group, deleted=steps.append) == (5, PrefixUse(OWN.group))
    assert steps[-1] == 5
    assert len(steps) == -(-5 // page)
    assert [(one.group, one.keys) for one in read_prefixes(client)] == [(OTHER.group, 5), (None, len(LEFT))]
    assert delete_prefix(client, OWN.group) == (0, PrefixUse(OWN.group))


def test_the_prefix_of_this_installation_is_refused_while_a_process_runs() -> None:
    assert require_cleanable(OWN.redis_prefix, OWN, []) == OWN.group
    assert require_cleanable(OTHER.group, OWN, [ALIVE]) == OTHER.group
    with pytest.raises(OperationRefused, match="its processes are running: worker w@host"):
        require_cleanable(OWN.group, OWN, [ALIVE])
    mutant = mutated(redis_keys, "if group == own.group and living:", "if False:")
    assert mutant.require_cleanable(OWN.group, OWN, [ALIVE]) == OWN.group


@pytest.mark.parametrize(
    "prefix",
    ["", "*", "sluice", "sluice:*", "unacked", "sluice-*", "sluice-1234567", "sluice-1234567g", "S-12345678"],
)
def test_a_text_that_is_not_the_prefix_of_an_installation_is_refused(prefix: str) -> None:
    with pytest.raises(OperationRefused, match="is not the prefix of an installation"):
        require_cleanable(prefix, OWN, [])


@given(name=st.from_regex(NAME_PATTERN, fullmatch=True), id_=st.uuids(), rest=st.binary(max_size=20))
def test_a_key_belongs_to_the_installation_that_created_it(name: str, id_: UUID, rest: bytes) -> None:
    installation = Installation(name, id_)
    assert group_of(installation.redis_prefix.encode() + rest) == installation.group


@pytest.mark.parametrize("key", [*LEFT, "sluice:1a2b3c4d", "x-1a2b3c4d", "\xff-1a2b3c4d:"])
def test_other_keys_belong_to_no_installation(key: str) -> None:
    assert group_of(key.encode("latin-1")) is None
