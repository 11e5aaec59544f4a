"""Celery's remote control of a worker, restricted to queries. Every change is refused.

Any client of Redis can send commands. On command, Celery's own mailbox ends the worker, cancels its queues or
stops its task events. After each message that it cannot read, Celery's mailbox opens a new channel.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import structlog
from celery import bootsteps
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.pidbox import Pidbox
from kombu.entity import Exchange
from kombu.messaging import Producer

from sluice.runtime import fanout
from sluice.runtime.refusals import LOG_INTERVAL_SECONDS, Refusals

log = structlog.get_logger("sluice.control")

CommandAnswer = Callable[[Consumer], Any]

NOT_A_COMMAND = "not a command"
"""The name under which messages without the shape of a command are counted."""
FAILED_REPLY = "failed reply"
REFUSED_REPLY = {"error": "Sluice refuses this command; workers only answer ping and inspect"}

MAX_SHOWN_LENGTH = 200

SHOWN_SETTINGS = (
    "accept_content",
    "beat_scheduler",
    "enable_utc",
    "imports",
    "result_backend",
    "task_acks_late",
    "task_create_missing_queues",
    "task_ignore_result",
    "task_serializer",
    "timezone",
    "worker_concurrency",
    "worker_consumer",
    "worker_pool",
    "worker_prefetch_multiplier",
    "worker_send_task_events",
)
"""The settings that are shown.

Other settings may contain a password, for example in an address or its query string.
"""
SHOWN_STATS = ("clock", "pid", "pool", "prefetch_count", "rusage", "total", "uptime")
SHOWN_BROKER = ("transport", "hostname", "port", "virtual_host")

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Malformed(Exception):
    """Raised if a message does not have the shape of kombu's commands."""


class ReplyTo(NamedTuple):
    """The address at which the sender waits for the answer."""

    ticket: str
    routing_key: str


class Command(NamedTuple):
    """A command to this worker. Its arguments are not read."""

    name: str
    reply_to: ReplyTo | None


def read_command(body: Any, *, hostname: str, reply_exchange: str) -> Command | None:
    """Returns the command, or None if the command is for other workers. Raises Malformed. Pure.

    Patterns of worker names are refused, because a regular expression of an unknown sender can keep a worker
    busy forever.
    """
    if not isinstance(body, dict):
        raise Malformed
    name, destination = body.get("method"), body.get("destination")
    if not (
        isinstance(name, str)
        and body.get("pattern") is None
        and body.get("matcher") is None
        and isinstance(body.get("arguments"), dict | None)
        and (destination is None or _is_list_of_strings(destination))
    ):
        raise Malformed
    reply_to = _read_reply_to(body.get("reply_to"), body.get("ticket"), reply_exchange)
    # For a command to all workers, kombu may send an empty list.
    return None if destination and hostname not in destination else Command(name, reply_to)


def _is_list_of_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _read_reply_to(reply_to: Any, ticket: Any, reply_exchange: str) -> ReplyTo | None:
    """Returns the address.

    Raises Malformed for another exchange: no message may make a worker write to a queue.
    """
    if reply_to is None and ticket is None:
        return None
    if not isinstance(reply_to, dict) or reply_to.get("exchange") != reply_exchange:
        raise Malformed
    routing_key = reply_to.get("routing_key")
    if not _is_uuid(ticket) or not _is_uuid(routing_key):
        raise Malformed
    return ReplyTo(str(ticket), str(routing_key))


def _is_uuid(value: Any) -> bool:
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


def _show_settings(consumer: Consumer) -> dict[str, Any]:
    settings = {name: consumer.app.conf.get(name) for name in SHOWN_SETTINGS}
    return {name: _plain(value) for name, value in settings.items()}


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | list | None) else str(value)


def _show_stats(consumer: Consumer) -> dict[str, Any]:
    found: Mapping[str, Any] = consumer.controller.stats()
    shown = {name: found[name] for name in SHOWN_STATS if name in found}
    return shown | {"broker": {name: found["broker"].get(name) for name in SHOWN_BROKER}}


def _show_queues(consumer: Consumer) -> list[Any]:
    tasks = consumer.task_consumer
    return [dict(queue.as_dict(recurse=True)) for queue in tasks.queues] if tasks else []


def _show_tasks(consumer: Consumer) -> list[str]:
    return sorted(name for name in consumer.app.tasks if not name.startswith("celery."))


def _show_active(_: Consumer) -> list[dict[str, Any]]:
    return [_show_request(request) for request in tuple(state.active_requests)]


def _show_reserved(_: Consumer) -> list[dict[str, Any]]:
    return [_show_request(request) for request in set(state.reserved_requests) - set(state.active_requests)]


def _show_request(request: Any) -> dict[str, Any]:
    """Returns the request. TaskReceiver has described its arguments, so they contain no events of a batch."""
    return {
        "id": str(request.id)[:MAX_SHOWN_LENGTH],
        "name": str(request.name)[:MAX_SHOWN_LENGTH],
        "args": str(request.argsrepr)[:MAX_SHOWN_LENGTH],
        "kwargs": "{}",
        "type": str(request.name)[:MAX_SHOWN_LENGTH],
        "hostname": str(request.hostname)[:MAX_SHOWN_LENGTH],
        "time_start": request.time_start,
        "acknowledged": request.acknowledged,
        "worker_pid": request.worker_pid,
    }


ANSWERS: Mapping[str, CommandAnswer] = {
    "ping": lambda _: {"ok": "pong"},
    # With Celery's own answer, the worker would adopt the task ids that the sender reports as revoked, and
    # would skip these tasks.
    "hello": lambda consumer: {"revoked": [], "clock": consumer.app.clock.forward()},
    "stats": _show_stats,
    "active_queues": _show_queues,
    "registered": _show_tasks,
    "active": _show_active,
    "reserved": _show_reserved,
    # A worker of Sluice has no scheduled tasks, and no task can be revoked.
    "scheduled": lambda _: [],
    "revoked": lambda _: [],
    "conf": _show_settings,
    # Flower sends the next two commands. They need no action: task events are always on, and a heartbeat is
    # sent every two seconds.
    "enable_events": lambda _: {"ok": "task events already enabled"},
    "heartbeat": lambda _: None,
}


class ControlBox(Pidbox):  # type: ignore[misc]
    """Celery's mailbox with the answers of this module."""

    def __init__(self, consumer: Consumer) -> None:
        super().__init__(consumer)
        self._mailbox = consumer.app.control.mailbox
        self.refusals = Refusals(_log_refused)

    def start(self, consumer: Consumer) -> None:
        """Runs after every connect."""
        super().start(consumer)
        # Celery's own handler would log the content of the message.
        self.consumer.on_decode_error = lambda *_: self.refusals.note(NOT_A_COMMAND)

    def on_message(self, body: Any, message: Any) -> None:  # noqa: ARG002 - its clock is not used
        """Answers or refuses a command. Never raises.

        Keeps the channel after an error, while Celery's own mailbox would open a new channel.
        """
        try:
            command = read_command(
                body, hostname=self.hostname, reply_exchange=self._mailbox.reply_exchange.name
            )
        except Malformed:
            self.refusals.note(NOT_A_COMMAND)
            return
        if command is None:
            return
        result = self._answer(command.name)
        if command.reply_to is not None:
            self._reply(command.reply_to, result)

    def _answer(self, name: str) -> Any:
        answer = ANSWERS.get(name)
        if answer is None:
            self.refusals.note(name)
            return REFUSED_REPLY
        try:
            return answer(self.c)
        except Exception as error:
            # The command may fail because the connection is closing.
            log.warning("remote control command failed", command=name, error=type(error).__name__)
            return {"error": "failed"}

    def _reply(self, reply_to: ReplyTo, result: Any) -> None:
        exchange = Exchange(  # type: ignore[no-untyped-call]
            self._mailbox.reply_exchange.name, type="direct", delivery_mode="transient", durable=False
        )
        producer = Producer(self.node.channel, auto_declare=False)  # type: ignore[no-untyped-call]
        try:
            # kombu does not retry, because its retries would block the worker until Redis is available.
            producer.publish(  # type: ignore[no-untyped-call]
                {self.hostname: result},
                exchange=exchange,
                routing_key=reply_to.routing_key,
                declare=[exchange],
                headers={"ticket": reply_to.ticket, "clock": self.c.app.clock.forward()},
                serializer="json",
                retry=False,
            )
        except Exception:
            # The key of the bindings has a wrong type, or Redis does not answer. If Redis does not answer,
            # the worker's own connection also ends, and the worker connects again.
            self.refusals.note(FAILED_REPLY)


class ControlStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Celery's step of remote control, with the mailbox of this module."""

    label = "Control"
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Consumer, **kwargs: Any) -> None:
        self._box = ControlBox(consumer)
        self._flushing: Any = None
        super().__init__(consumer, **kwargs)

    def include_if(self, consumer: Consumer) -> bool:
        """Returns False if Celery's setting has turned remote control off."""
        return bool(consumer.app.conf.worker_enable_remote_control)

    def start(self, consumer: Consumer) -> None:
        """Runs after every connect."""
        self._box.start(consumer)
        self._flushing = consumer.timer.call_repeatedly(LOG_INTERVAL_SECONDS, self._flush)

    def stop(self, consumer: Consumer) -> None:
        """Celery calls it when the connection to the broker is lost, and at shutdown."""
        self._box.stop(consumer)
        if self._flushing is not None:
            self._flushing.cancel()

    def shutdown(self, consumer: Consumer) -> None:
        """Runs at shutdown."""
        self._box.shutdown(consumer)

    def _flush(self) -> None:
        self._box.refusals.flush()
        fanout.dropped.flush()


def _log_refused(commands: dict[str, int]) -> None:
    log.warning("remote control commands refused", count=sum(commands.values()), commands=commands)
