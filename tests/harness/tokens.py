"""Tokens for OAUTHBEARER that the broker's own validator accepts, and an endpoint that returns them."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

from sluice.stack.ports import LOOPBACK
from sluice.stack.secure_kafka import USER


def unsecured_token(user: str, life_seconds: float) -> str:
    """Returns a token without a signature, which the broker's own validator accepts."""
    now = time.time()
    claims = {"sub": user, "iat": now, "exp": now + life_seconds}
    parts = [base64.urlsafe_b64encode(json.dumps(one).encode()) for one in ({"alg": "none"}, claims)]
    return ".".join([*(part.decode().rstrip("=") for part in parts), ""])


@contextmanager
def token_endpoint(*, life_seconds: float = 60.0) -> Iterator[tuple[str, list[str]]]:
    """Yields the URL of an endpoint that returns tokens, and the list of the requests' bodies."""
    bodies: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            pair = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
            bodies.append(body)
            is_known = pair == f"{USER}:s3%2Fcret"
            token = {"access_token": unsecured_token(USER, life_seconds), "expires_in": life_seconds}
            answer = json.dumps(token if is_known else {"error": "invalid_client"}).encode()
            self.send_response(200 if is_known else 401)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer((LOOPBACK, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}/token", bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
