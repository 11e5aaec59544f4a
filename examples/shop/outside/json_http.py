"""JSON over HTTP with the standard library, for the provider and the mail server's control."""

import json
import socket
import socketserver
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from examples.shop.outside.faults import FaultPlan, FaultsRequest

MAX_BODY_BYTES = 65_536  # a capture has about a hundred bytes, a list of faults a few thousand


class JsonServer(ThreadingHTTPServer):
    """A server with a thread per connection. A delayed request blocks neither other requests nor the exit."""

    daemon_threads = True
    request_queue_size = 128  # the default of 5 would refuse connections in a burst
    faults: FaultPlan

    def server_bind(self) -> None:
        """Binds without the name server query of the base class, because this query can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]


class JsonHandler(BaseHTTPRequestHandler):
    """Handles one request: reads and answers JSON, including `GET` and `PUT /faults`."""

    server: JsonServer
    timeout = 30  # seconds without data after which a connection is closed

    @property
    def route(self) -> str:
        """Returns the path without its query."""
        return urlsplit(self.path).path

    @property
    def query(self) -> dict[str, str]:
        """Returns the parameters of the query, the last of each name."""
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}

    def read_body(self) -> bytes | None:
        """Returns the body. If the length is missing or too large, answers with an error and returns None."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self.answer_error(413, "bad_length", f"a body of 0 to {MAX_BODY_BYTES} bytes, with its length")
            return None
        return self.rfile.read(int(length))

    def answer(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        """Sends one JSON answer."""
        encoded = json.dumps(msgspec.to_builtins(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(encoded)

    def answer_error(self, status: int, code: str, message: str) -> None:
        """Sends an error: `{"error": {"code": …, "message": …}}`."""
        self.answer(status, {"error": {"code": code, "message": message}})

    def answer_unknown(self) -> None:
        """Answers that the route or the method does not exist."""
        self.answer_error(404, "no_such_thing", self.route)

    def drop(self) -> None:
        """Ends the connection without an answer."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def get_faults(self) -> None:
        """Handles `GET /faults`: answers with the remaining faults."""
        self.answer(200, {"faults": self.server.faults.left()})

    def do_PUT(self) -> None:
        """Handles `PUT /faults`, the only route with PUT: replaces the faults."""
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
        """Logs nothing, because each server has a journal."""
