"""Classifies the errors of a Kafka client by their subject and their consequence. Pure.

Every error that a client reports becomes one ClientError. The code of a ClientError is the name of the error
in Kafka's protocol. Errors of librdkafka itself have names that begin with an underscore. Errors of
kafka-python itself have the name of their class.
"""

import re
from enum import Enum, auto
from typing import NamedTuple

from sluice.runtime.outages import KAFKA_AWAY
from sluice.runtime.place import Place


class ErrorAction(Enum):
    """The consequence of an error."""

    IGNORE = auto()
    """The client only reports that a partition's end was reached."""
    POSITION_LOST = auto()
    """The consumer has no valid position in the partition, and must seek again."""
    TRUNCATED = auto()
    """The log lost records that the bridge had read, so the topic must be stopped."""
    NO_LEADER = auto()
    NOT_AUTHORIZED = auto()
    UNREADABLE_RECORD = auto()
    REPLACE_CONSUMER = auto()
    """The client cannot recover, and must be closed and replaced."""
    OTHER = auto()
    """The error is logged and counted, and reading continues."""


class ClientError(NamedTuple):
    """One error that a client reported. An error without a topic concerns the group or a connection."""

    code: str
    detail: str
    action: ErrorAction
    topic: str | None = None
    partition: int | None = None
    """None if the error concerns all partitions of the topic."""
    offset: int | None = None
    of_group: bool = False
    """True if the member cannot take part in its group. Then it reads none of its partitions."""


_ACTIONS = {
    ErrorAction.IGNORE: ("_PARTITION_EOF",),
    ErrorAction.POSITION_LOST: ("_AUTO_OFFSET_RESET", "_NO_OFFSET", "OFFSET_OUT_OF_RANGE"),
    ErrorAction.TRUNCATED: ("_LOG_TRUNCATION", "LogTruncationError"),
    ErrorAction.NO_LEADER: ("LEADER_NOT_AVAILABLE",),
    ErrorAction.NOT_AUTHORIZED: (
        "TOPIC_AUTHORIZATION_FAILED",
        "GROUP_AUTHORIZATION_FAILED",
        "CLUSTER_AUTHORIZATION_FAILED",
    ),
    ErrorAction.UNREADABLE_RECORD: (
        "_BAD_MSG",
        "_BAD_COMPRESSION",
        "_NOT_IMPLEMENTED",
        "INVALID_MSG",
        "INVALID_MSG_SIZE",
        "MSG_SIZE_TOO_LARGE",
        "CORRUPT_MESSAGE",
        "INVALID_RECORD",
        "UNSUPPORTED_COMPRESSION_TYPE",
        "UnsupportedCodecError",
    ),
    # A static member is fenced when another member joins with the same name, even one of the same process.
    ErrorAction.REPLACE_CONSUMER: (
        "_FATAL",
        "_FENCED",
        "_DESTROY",
        "_CRIT_SYS_RESOURCE",
        "FENCED_INSTANCE_ID",
    ),
}
_ACTION_OF = {code: action for action, codes in _ACTIONS.items() for code in codes}

# The coordinator refuses the member. A new consumer is refused too, until a right or a setting is changed.
_GROUP_CODES = frozenset(
    {
        "GROUP_AUTHORIZATION_FAILED",
        "GROUP_MAX_SIZE_REACHED",
        "INCONSISTENT_GROUP_PROTOCOL",
        "INVALID_GROUP_ID",
        "INVALID_SESSION_TIMEOUT",
        "UNSUPPORTED_ASSIGNOR",
        "UNSUPPORTED_VERSION",
    }
)

# Error texts for a broker that refuses the client permanently, or that expects another protocol.
_REFUSALS = re.compile(
    "SASL|_AUTHENTICATION|authentication failed|handshake fail|certificate|incorrect security.protocol"
    "|CLUSTER_AUTHORIZATION_FAILED|ClusterAuthorizationFailed|not a Kafka|SSL routines",
    re.IGNORECASE,
)
# No broker was reached, or none answered.
AWAY_CODES = KAFKA_AWAY
_LOGIN_CODES = frozenset({"_AUTHENTICATION", "_SSL", "SaslAuthenticationFailedError"})


def find_advice(text: str) -> str | None:
    """Returns what an operator must do about an error of a client; None if waiting may help."""
    if _REFUSALS.search(text) is None:
        return None
    return "set SLUICE_KAFKA_BOOTSTRAP_SERVERS to a listener that accepts this client"


def may_be_refused(error: ClientError) -> bool:
    """Returns True if the error concerns a connection, so that the brokers may refuse the login."""
    return error.topic is None and error.code in AWAY_CODES | _LOGIN_CODES


def judge_error(
    code: str,
    detail: str,
    *,
    fatal: bool = False,
    place: Place | None = None,
    topic: str | None = None,
    offset: int | None = None,
) -> ClientError:
    """Returns the subject and the consequence of one error.

    `fatal` is True if the client reports that it cannot recover. The consequence of an unknown code is OTHER.
    """
    action = ErrorAction.REPLACE_CONSUMER if fatal else _ACTION_OF.get(code, ErrorAction.OTHER)
    of_group = place is None and topic is None and code in _GROUP_CODES
    if place is not None:
        return ClientError(code, detail, action, place[0], place[1], offset)
    return ClientError(code, detail, action, topic, of_group=of_group)
