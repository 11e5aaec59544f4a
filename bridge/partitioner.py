"""The partition that a record's producer should have chosen, and a sampled check of it. Pure."""

from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place


def expected_partition(key: bytes, partitions: int) -> int:
    """The partition the Java client's default partitioner gives a key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, with the seed of Kafka's clients."""
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


MAX_SAMPLE_BYTES = 1024  # a hash of a megabyte takes this code a second, and a key may have been cut
SUSPICIOUS_SAMPLES = 20  # fewer may be left from before a raised partition count


class PartitionerCheck:
    """Counts samples that sit elsewhere, per topic, and speaks once."""

    def __init__(self) -> None:
        self._elsewhere: dict[str, int] = {}

    def sample(self, place: Place, record: Record, partitions: int) -> bool:
        """Whether this record makes its topic suspicious; True at most once per topic."""
        topic, partition = place
        if record.key is None or len(record.key) > MAX_SAMPLE_BYTES:
            return False
        if expected_partition(record.key, partitions) == partition:
            return False
        self._elsewhere[topic] = self._elsewhere.get(topic, 0) + 1
        return self._elsewhere[topic] == SUSPICIOUS_SAMPLES
