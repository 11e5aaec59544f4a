"""The time between two small messages of a queue. It follows the speed of the queue's worker. Pure."""

# A steady flow of records fills the messages of this time. Each message costs a worker several milliseconds.
PACE_SECONDS = 0.020
# The longest time. A small message of this age is sent in any case, unless its list is long.
PATIENT_SECONDS = 0.250
# A list that is not empty shows that its worker is busy. Then the time grows by the first factor, and with an
# empty list it shrinks by the second one. It grows faster, because a message on a list gets no more records.
SLOWER_FACTOR, FASTER_FACTOR = 2.0, 0.95


class QueuePace:
    """The pace of one queue. `seconds`: the shortest time between two small messages."""

    def __init__(self) -> None:
        self.seconds = PACE_SECONDS

    def note_list(self, messages: int) -> None:
        """Adapts the pace to the messages on the queue's list, as read before a small message is sent."""
        if messages:
            self.seconds = min(SLOWER_FACTOR * self.seconds, PATIENT_SECONDS)
        else:
            self.seconds = max(FASTER_FACTOR * self.seconds, PACE_SECONDS)
