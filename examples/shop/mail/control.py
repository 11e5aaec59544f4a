"""The mail server's HTTP interface: its accepted messages, and its faults.

`GET /messages?message_id=…` answers `{"messages": […], "in_process": bool}`. `in_process` is true if the
server has received a message with that id and has not decided yet if it accepts the message. `GET` and
`PUT /faults` read and replace the faults (see `outside/faults.py`), whose subject is the first recipient.
"""

from examples.shop.mail.messages import Mailbag
from examples.shop.outside.faults import FaultPlan
from examples.shop.outside.json_http import JsonHandler, JsonServer


class ControlServer(JsonServer):
    """A server that listens as soon as it is constructed."""

    def __init__(self, address: tuple[str, int], mailbag: Mailbag, faults: FaultPlan) -> None:
        """Raises OSError if the address is taken."""
        self.mailbag, self.faults = mailbag, faults
        super().__init__(address, ControlHandler)


class ControlHandler(JsonHandler):
    """Handles one request."""

    server: ControlServer

    def do_GET(self) -> None:
        """Handles `GET /messages` and `GET /faults`."""
        match self.route:
            case "/messages":
                found, more = self.server.mailbag.find(message_id=self.query.get("message_id"))
                self.answer(200, {"messages": found, "in_process": more})
            case "/faults":
                self.get_faults()
            case _:
                self.answer_unknown()
