"""Every partition belongs to one share, and every key to one share in all topics of an entity type."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.runtime.partition_share import WHOLE, PartitionShare, parse_share
from sluice.runtime.settings import SettingsError, read_settings

COUNTS = st.integers(1, 12)
HASHES = st.integers(0, 2**31 - 1)  # murmur2 of a key, as producers use it


def shares(count: int) -> list[PartitionShare]:
    return [PartitionShare(number, count) for number in range(1, count + 1)]


def holders(count: int, partition: int) -> list[int]:
    return [share.number for share in shares(count) if share.holds(partition)]


@given(COUNTS, st.integers(0, 100))
def test_every_partition_belongs_to_exactly_one_share(count: int, partitions: int) -> None:
    dealt = [number for share in shares(count) for number in share.numbers(partitions)]
    assert sorted(dealt) == list(range(partitions))
    for share in shares(count):
        assert list(share.numbers(partitions)) == [n for n in range(partitions) if share.holds(n)]


@given(COUNTS, st.integers(1, 20), st.integers(1, 20), HASHES)
def test_a_key_is_in_one_share_in_all_topics_whose_partitions_the_share_divides(
    count: int, first: int, second: int, key: int
) -> None:
    topics = (first * count, second * count)
    assert all(share.flaw("t", partitions) is None for share in shares(count) for partitions in topics)
    assert holders(count, key % topics[0]) == holders(count, key % topics[1]) == [key % count + 1]


@given(COUNTS, st.integers(1, 100))
def test_a_topic_is_refused_exactly_if_some_key_would_change_its_share(count: int, partitions: int) -> None:
    """Compares with a topic of the smallest number of partitions that is not refused."""
    changes = any(
        holders(count, key % partitions) != holders(count, key % count) for key in range(count * partitions)
    )
    assert all((share.flaw("t", partitions) is not None) == changes for share in shares(count))


def test_the_refusal_of_a_topic_contains_the_number_and_the_remedy() -> None:
    flaw = PartitionShare(2, 4).flaw("orders", 6)
    assert flaw is not None
    assert flaw.problem.startswith("topic orders has 6 partitions, and 4 does not divide this number")
    assert flaw.remedy == (
        "if topic orders is empty, raise its partitions to a multiple of 4; otherwise copy its records to a"
        " new topic"
    )


def test_the_sentence_about_a_partition_of_another_share_names_that_share() -> None:
    assert PartitionShare(1, 2).foreign(("t", 4)) is None
    said = PartitionShare(1, 2).foreign(("t", 5))
    assert said is not None
    assert "SLUICE_PARTITION_SHARE=2/2" in said


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2 ", "01/2", ""])
def test_a_wrong_share_is_refused_with_the_name_of_the_setting(text: str) -> None:
    with pytest.raises(ValueError, match="share"):
        parse_share(text)
    environ = {
        "SLUICE_DATABASE_URL": "postgresql+psycopg2://u@h/d",
        "SLUICE_REDIS_URL": "redis://h/0",
        "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "h:9092",
        "SLUICE_PARTITION_SHARE": text,
    }
    with pytest.raises(SettingsError, match="SLUICE_PARTITION_SHARE: "):
        read_settings(environ)


def test_a_share_is_shown_as_it_is_written() -> None:
    assert str(parse_share("3/4")) == "3/4"
    assert parse_share("1/1") == WHOLE
    assert WHOLE.is_whole
    assert not parse_share("1/2").is_whole
