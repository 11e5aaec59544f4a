"""`queues`: which there are."""

from db.session import Session, Statement

READ_QUEUE_NAMES = Statement("read_queue_names", "SELECT queue FROM sluice.queues ORDER BY queue")


def read_queue_names(session: Session) -> list[str]:
    """All queues of all entity types."""
    return [queue for (queue,) in session.run(READ_QUEUE_NAMES)]
