"""A sampled check that producers choose partitions by the key's murmur2, as Java clients do. Pure.

With two partitioners on one topic, a key's events are spread over two partitions, which have no order.
"""

from bridge.partitioner import expected_partition
from db.progress import Place
from tasks.wire import Record

SUSPICIOUS_SAMPLES = 20  # fewer may be left from before a raised partition count


class PartitionerCheck:
    """Counts samples that sit elsewhere, per topic, and speaks once."""

    def __init__(self) -> None:
        self._elsewhere: dict[str, int] = {}

    def sample(self, place: Place, record: Record, partitions: int) -> bool:
        """Whether this record makes its topic suspicious; True at most once per topic."""
        topic, partition = place
        if record.key is None or expected_partition(record.key, partitions) == partition:
            return False
        self._elsewhere[topic] = self._elsewhere.get(topic, 0) + 1
        return self._elsewhere[topic] == SUSPICIOUS_SAMPLES
