"""Checks the signature of a message, and makes a Celery request from the message.

Celery itself reads time limits, expiry, callbacks and other fields from the envelope, which any client of
Redis can write. This module uses only the signed content.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from celery.utils.log import get_logger
from celery.worker.request import Request, create_request_cls
from celery.worker.state import task_reserved
from vine import promise  # type: ignore[import-untyped]

from sluice.runtime.dropped_messages import dropped
from sluice.runtime.redis_item import DropReason
from sluice.tasks.installation import formats
from sluice.tasks.installation.keyring import KeyRing
from sluice.tasks.task_messages import READERS, TaskCall, UnknownTask, describe

_logger = get_logger(__name__)

NEWER_FORMAT = "newer format"
_EMBEDDED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class TaskReceiver:
    """Turns messages into requests of Celery. If a message is dropped, it is also acknowledged."""

    def __init__(self, consumer: Any, ring: KeyRing, *, note_newer: Callable[[str], None]) -> None:
        """`note_newer` is called with the queue of a message whose format is too new for this code."""
        self._consumer = consumer
        self._ring = ring
        self._note_newer = note_newer
        self._request_classes: dict[str, Any] = {}

    def __call__(self, message: Any) -> None:
        """Runs the task of a message, or drops the message."""
        queue = message.delivery_info["routing_key"]
        call = self._read(message.body, queue)
        if call is None:
            message.ack_log_error(_logger, self._consumer.connection_errors)
            return
        self._run(message, call)

    def _read(self, body: bytes, queue: str) -> TaskCall | None:
        frame = self._ring.open(body)
        if frame is None:
            dropped.note(DropReason.FORGED.value, queue=queue)
            return None
        read = READERS.get(frame.version) if frame.version <= formats.NEWEST_FORMAT else None
        if read is None:
            dropped.note(NEWER_FORMAT, queue=queue, format=frame.version)
            self._note_newer(queue)
            return None
        try:
            return read(frame.content)
        except (UnknownTask, msgspec.MsgspecError):
            dropped.note(DropReason.UNKNOWN_TASK.value, queue=queue)
            return None

    def _run(self, message: Any, call: TaskCall) -> None:
        consumer = self._consumer
        task = consumer.app.tasks[call.task]
        if call.task not in self._request_classes:
            self._request_classes[call.task] = create_request_cls(
                Request, task, consumer.pool, consumer.hostname, consumer.event_dispatcher, app=consumer.app
            )
        arguments = describe(call)
        task_id = message.headers["id"]
        request = self._request_classes[call.task](
            message,
            on_ack=promise(consumer.call_soon_ack, (message.ack_log_error,)),
            on_reject=promise(consumer.call_soon_ack, (message.reject_log_error,)),
            app=consumer.app,
            hostname=consumer.hostname,
            eventer=consumer.event_dispatcher,
            task=task,
            connection_errors=consumer.connection_errors,
            body=(call.arguments, {}, _EMBEDDED),
            headers={
                "id": task_id,
                "root_id": task_id,
                "task": call.task,
                "argsrepr": arguments,
                "kwargsrepr": "{}",
                "retries": 0,
                "ignore_result": True,
            },
            decoded=True,
        )
        events = consumer.event_dispatcher
        if events and events.enabled and task.send_events:
            events.send(
                "task-received",
                uuid=task_id,
                name=call.task,
                args=arguments,
                kwargs="{}",
                root_id=task_id,
                parent_id=None,
                retries=0,
                eta=None,
                expires=None,
            )
        task_reserved(request)
        consumer.on_task_request(request)
