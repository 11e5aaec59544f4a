"""Decides which properties of librdkafka a user may set in SLUICE_KAFKA_PROPERTIES. Pure."""

import json

# These have settings of their own.
_ACCESS_PREFIXES = ("security.", "sasl.", "ssl.", "ssl_", "https.", "enable.ssl.", "enable.sasl.")
_ACCESS = frozenset({"bootstrap.servers", "metadata.broker.list"})

# A change of one of these would break a promise. librdkafka has two names for some of them.
_PROMISES = frozenset(
    {
        # Positions: the bridge reads its positions from Postgres, and only committed records.
        *("auto.offset.reset", "enable.auto.commit", "auto.commit.enable", "auto.commit.interval.ms"),
        *("enable.auto.offset.store", "offset.store.method", "offset.store.path", "isolation.level"),
        *("offset.store.sync.interval.ms", "enable.partition.eof", "fetch.error.backoff.ms"),
        # Membership: a bridge that lost its partitions must stop in time.
        *("group.id", "group.instance.id", "group.protocol", "group.protocol.type"),
        *("group.remote.assignor", "partition.assignment.strategy", "session.timeout.ms"),
        *("heartbeat.interval.ms", "max.poll.interval.ms"),
        # Outgoing events: their order, and no record in flight after the lock of the relay is released.
        *("enable.idempotence", "enable.gapless.guarantee", "acks", "request.required.acks"),
        *("partitioner", "partitioner_cb", "message.timeout.ms", "delivery.timeout.ms"),
        *("retries", "message.send.max.retries", "max.in.flight"),
        *("max.in.flight.requests.per.connection", "queuing.strategy", "transactional.id"),
        *("transaction.timeout.ms", "allow.auto.create.topics", "msg_order_cmp"),
        # These change how the client works as a whole.
        *("default.topic.config", "default_topic_conf", "opaque", "enabled_events", "interceptors"),
        *("plugin.library.paths", "builtin.features", "logger", "produce.offset.report"),
    }
)
_PROMISE_ENDINGS = ("_cb", "_callback")  # functions, which no JSON can contain
_PROMISE_PREFIXES = ("on_", "test.")


def find_flaw(text: str) -> str | None:
    """Returns why the text is not a JSON object of properties that a user may set; None if it is one."""
    if not text:
        return None
    try:
        read = json.loads(text)
    except ValueError as error:
        return f"is not JSON: {error}"
    if not isinstance(read, dict):
        return 'is not a JSON object; write {"property": value}'
    for name, value in read.items():
        if name in _ACCESS or name.startswith(_ACCESS_PREFIXES):
            return f"{name} has a setting of its own, SLUICE_KAFKA_…; remove it"
        if name in _PROMISES or name.endswith(_PROMISE_ENDINGS) or name.startswith(_PROMISE_PREFIXES):
            return f"Sluice sets {name} itself, because its guarantees depend on it; remove it"
        if not isinstance(value, str | int | float):
            return f"the value of {name} must be a string, a number or a boolean"
    return None
