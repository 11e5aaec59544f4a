"""JSON over HTTP by the standard library: what the provider and the mail server's control answer with."""

import json
import socket
import socketserver
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from examples.shop.outside.faults import FaultPlan, FaultsRequest

MAX_BODY_BYTES = 65_536  # a capture has a hundred, a plan of faults a few thousand


class JsonServer(ThreadingHTTPServer):
    """A thread per connection; one that hangs on a fault holds up no other, nor the end of the process."""

    daemon_threads = True
    request_queue_size = 128  # the default of 5 refuses connections of a burst
    faults: FaultPlan

    def server_bind(self) -> None:
        """Binds without asking a name server for this machine's name, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]


class JsonHandler(BaseHTTPRequestHandler):
    """One request: reads and answers JSON, and knows `GET` and `PUT /faults`."""

    server: JsonServer
    timeout = 30  # seconds of silence after which a connection is given up

    @property
    def route(self) -> str:
        """The path without its query."""
        return urlsplit(self.path).path

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the query, the last of each name."""
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}

    def read_body(self) -> bytes | None:
        """The body; None if the length is missing or too large, which was answered then."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self.answer_error(413, "bad_length", f"a body of 0 to {MAX_BODY_BYTES} bytes, with its length")
            return None
        return self.rfile.read(int(length))

    def answer(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        """One JSON answer."""
        encoded = json.dumps(msgspec.to_builtins(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(encoded)

    def answer_error(self, status: int, code: str, message: str) -> None:
        """An answer that says no: `{"error": {"code": …, "message": …}}`."""
        self.answer(status, {"error": {"code": code, "message": message}})

    def answer_unknown(self) -> None:
        """There is no such route, or not by this method."""
        self.answer_error(404, "no_such_thing", self.route)

    def drop(self) -> None:
        """Ends the connection without an answer."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def get_faults(self) -> None:
        """`GET /faults`: those that are left."""
        self.answer(200, {"faults": self.server.faults.left()})

    def do_PUT(self) -> None:
        """`/faults`, by a FaultsRequest, which replaces them; nothing else of these servers is put."""
        if self.route != "/faults":
            self.answer_unknown()
            return
        body = self.read_body()
        if body is None:
            return
        try:
            self.server.faults.replace(msgspec.json.decode(body, type=FaultsRequest).faults)
        except (msgspec.DecodeError, ValueError) as error:
            self.answer_error(400, "bad_faults", str(error))
        else:
            self.get_faults()

    def log_message(self, format: str, *args: Any) -> None:
        """The journal says what happened; a line on stderr for each request would say it again."""
