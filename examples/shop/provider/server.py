"""The provider's HTTP interface: captures, their idempotency keys, and routes for tests.

`POST /captures` takes a CaptureRequest and an `Idempotency-Key`; see `book.py` for the rules and their
sources. `GET /captures?reference=…&key=…` answers `{"captures": […], "in_process": bool}`. `in_process` is
true if a request with that key is not answered yet. `GET` and `PUT /faults` read and replace the faults (see
`outside/faults.py`), whose subject is the reference. `DELETE /keys` forgets all keys.
"""

from examples.shop.outside.faults import FaultPlan
from examples.shop.outside.journal import Journal
from examples.shop.outside.json_http import JsonHandler, JsonServer
from examples.shop.provider.book import Book, capture_body
from examples.shop.provider.desk import MOMENTS, Desk
from examples.shop.provider.lines import Line

REPLAYED = "Idempotent-Replayed"  # the header with which Stripe marks a replayed answer


class ProviderServer(JsonServer):
    """A server that listens as soon as it is constructed. It restores its state from the journal."""

    def __init__(self, address: tuple[str, int], book: Book, journal: Journal[Line]) -> None:
        """Restores the book. Raises OSError if the address is taken."""
        book.restore(journal.lines())
        self.faults = FaultPlan(MOMENTS)
        self.desk = Desk(book, journal, self.faults)
        super().__init__(address, ProviderHandler)


class ProviderHandler(JsonHandler):
    """Handles one request."""

    server: ProviderServer

    def do_POST(self) -> None:
        """Handles `POST /captures`."""
        body = self.read_body()
        if body is None:
            return
        if self.route != "/captures":
            self.answer_unknown()
            return
        reply = self.server.desk.answer(_read_key(self.headers.get("Idempotency-Key")), body)
        if reply.answer is None:
            self.drop()
        else:
            headers = {REPLAYED: "true"} if reply.replayed else {}
            self.answer(reply.answer.status, reply.answer.body, headers)

    def do_GET(self) -> None:
        """Handles `GET /captures` and `GET /faults`."""
        match self.route:
            case "/captures":
                query = self.query
                found, more = self.server.desk.find(reference=query.get("reference"), key=query.get("key"))
                self.answer(200, {"captures": [capture_body(c) for c in found], "in_process": more})
            case "/faults":
                self.get_faults()
            case _:
                self.answer_unknown()

    def do_DELETE(self) -> None:
        """Handles `DELETE /keys`."""
        if self.route == "/keys":
            self.server.desk.forget_keys()
            self.answer(200, {})
        else:
            self.answer_unknown()


def _read_key(value: str | None) -> str | None:
    """Returns the key without quotes, which the draft requires and Stripe omits; None if the key is empty."""
    if value is not None and len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    return value or None
