"""Workarounds for faults of kafka-python 3.0.12 in a consumer's connections and its membership of a group."""

from typing import Any

from kafka.errors import (
    FencedInstanceIdError,
    IllegalGenerationError,
    KafkaError,
    RebalanceInProgressError,
    RetriableError,
    UnknownMemberIdError,
)
from kafka.future import Future

from sluice.kafka_io.kafka_python_mends import NoteError, client_error

_REJOINING = (IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)


def note_heartbeat_errors(coordinator: Any, note: NoteError) -> None:
    """Passes the errors in a coordinator's answers to heartbeats to `note`."""
    # After such an error, kafka-python continues as if it were a member. The errors that are not noted here
    # make it join again.
    send = coordinator._send_heartbeat_request

    async def send_and_note() -> Any:
        try:
            return await send()
        except KafkaError as error:
            if not isinstance(error, (RetriableError, *_REJOINING)):
                note(client_error(error))
            raise

    coordinator._send_heartbeat_request = send_and_note


def note_connect_errors(manager: Any, note: NoteError) -> None:
    """Passes the errors of failed connections to `note`. kafka-python only logs them, and connects again."""
    connect = manager._connect

    async def connect_and_note(node: Any, connection: Any, **options: Any) -> None:
        await connect(node, connection, **options)
        outcome = connection.init_future
        if outcome.failed():
            note(client_error(outcome.exception))

    manager._connect = connect_and_note


def raise_if_fenced(coordinator: Any) -> None:
    """Raises FencedInstanceIdError if another consumer has taken the name of this consumer."""
    # If a member is fenced, kafka-python ends its heartbeats and logs that, but later polls only return no
    # records. kafka-python also pauses heartbeats while it joins. The lock makes the reads of both states
    # consistent.
    with coordinator._lock:
        ended = not coordinator._heartbeat_enabled and not coordinator.rejoining
        if ended and coordinator.stable():
            raise FencedInstanceIdError(f"another consumer has the name {coordinator.group_instance_id}")


def finish_joining(coordinator: Any) -> None:
    """Makes the member continue a join that has not ended, and take the assignment of one that has."""
    # A join has two answers. If a poll ends between them, kafka-python forgets the join. The group then has a
    # member that polls but never gets a partition.
    if not coordinator.rejoining:
        return
    coordinator.request_rejoin()
    # If the second answer arrives between two polls, kafka-python discards it and joins again. All other
    # members then join again too, and a group whose members poll slowly never gets its partitions.
    join = coordinator._join_task
    if isinstance(join, Future) and join.succeeded():
        coordinator._join_task = _UntakenJoin(join)


class _UntakenJoin:
    """A join that succeeded between two polls. kafka-python waits for it as for a join that lasts."""

    is_done = False

    def __init__(self, join: Any) -> None:
        self.add_callback = join.add_callback
        self.add_errback = join.add_errback
