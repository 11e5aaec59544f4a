"""The partition that the producer of a record should have chosen, and a check of samples. Pure."""

from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place


def expected_partition(key: bytes, partitions: int) -> int:
    """Returns the partition that the Java client's default partitioner chooses for a key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Returns the 32-bit MurmurHash2, with the seed of Kafka's clients."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    length = len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    if length > whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)


# Longer keys are not checked: this code hashes only a megabyte per second, and a long key may be truncated.
MAX_SAMPLE_BYTES = 1024
# A few records on other partitions are no reason for a warning: they may be older than an increase of the
# partition count.
SUSPICIOUS_SAMPLES = 20


class PartitionerCheck:
    """Counts the samples that are on an unexpected partition, per topic."""

    def __init__(self) -> None:
        self._elsewhere: dict[str, int] = {}

    def sample(self, place: Place, record: Record, partitions: int) -> bool:
        """Checks one record. Returns True if the topic needs a warning now, at most once per topic."""
        topic, partition = place
        if record.key is None or len(record.key) > MAX_SAMPLE_BYTES:
            return False
        if expected_partition(record.key, partitions) == partition:
            return False
        self._elsewhere[topic] = self._elsewhere.get(topic, 0) + 1
        return self._elsewhere[topic] == SUSPICIOUS_SAMPLES
