"""Requests the list of brokers from a broker, without a client library.

A broker that is not ready yet answers, but its list is empty. A broker is in the list when it is registered.
Message formats: https://kafka.apache.org/protocol.html#The_Messages_Metadata
"""

import socket
import ssl
import struct
from collections.abc import Iterator

# The oldest version in which a request can ask for brokers and no topics.
METADATA_KEY, METADATA_VERSION = 3, 1
# An answer with one broker and no topic has about 100 bytes; a longer answer is not from Kafka.
MAX_ANSWER_BYTES = 64 * 1024
# The fields of the request: int32 length of the rest, int16 API key, int16 API version, int32 correlation id,
# string client id (int16 length -1: none), and an array of topics (int32 length 0: none).
REQUEST = struct.pack(">ihhihi", 14, METADATA_KEY, METADATA_VERSION, 0, -1, 0)


def lists_itself(host: str, port: int, *, timeout_seconds: float, tls: ssl.SSLContext | None = None) -> bool:
    """Returns True if a broker answers at this address, and its list of brokers contains the address."""
    try:
        with (
            socket.create_connection((host, port), timeout_seconds) as plain,
            plain if tls is None else tls.wrap_socket(plain, server_hostname=host) as connection,
            connection.makefile("rb") as answers,
        ):
            connection.sendall(REQUEST)
            (length,) = struct.unpack(">i", answers.read(4))
            answer = answers.read(length) if 0 <= length <= MAX_ANSWER_BYTES else b""
            return (host, port) in read_brokers(answer)
    except (OSError, struct.error):
        return False


def read_brokers(answer: bytes) -> Iterator[tuple[str, int]]:
    """Yields host and port of each broker in an answer. Raises struct.error if the answer is cut off.

    An answer is an int32 correlation id and an array of brokers (int32 length): int32 node id, string host
    (int16 length), int32 port, nullable string rack. The rest of the answer is not read.
    """
    (count,), at = struct.unpack_from(">i", answer, 4), 8
    for _ in range(count):
        (length,), at = struct.unpack_from(">H", answer, at + 4), at + 6
        host, at = answer[at : at + length].decode(errors="replace"), at + length
        port, rack_length = struct.unpack_from(">ih", answer, at)
        at += 6 + max(0, rack_length)
        yield host, port
