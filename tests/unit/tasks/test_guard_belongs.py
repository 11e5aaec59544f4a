"""The check that records belong to a queue."""

from hypothesis import given
from hypothesis import strategies as st

from sluice.tasks.apply.guard import belongs
from sluice.tasks.events.routing import queue_name, shard_of

_keys = st.none() | st.binary(max_size=8)


@given(_keys, st.integers(1, 16))
def test_a_record_belongs_only_to_the_queue_of_its_key(key: bytes | None, shards: int) -> None:
    queues = [queue_name("thing", shard) for shard in range(shards)]
    assert [belongs([key], queue, shards=shards) for queue in queues] == [
        shard == shard_of(key, shards) for shard in range(shards)
    ]


@given(st.lists(_keys, min_size=1, max_size=5), _keys)
def test_records_belong_to_a_queue_only_if_every_record_does(
    keys: list[bytes | None], other: bytes | None
) -> None:
    queue = queue_name("thing", shard_of(keys[0], 4))
    expected = all(shard_of(key, 4) == shard_of(keys[0], 4) for key in [*keys, other])
    assert belongs([*keys, other], queue, shards=4) is expected
