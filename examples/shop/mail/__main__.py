"""`python -m examples.shop.mail` runs the mail server. It prints its ports as JSON when it listens.

The server exits at a signal. It needs no clean-up, because its journal has every accepted message.
"""

import argparse
import asyncio
import json
import sys
import threading
from pathlib import Path

from examples.shop.mail.control import ControlServer
from examples.shop.mail.messages import Mailbag, Message
from examples.shop.mail.smtp import MOMENTS, MailHandler, listen
from examples.shop.outside.faults import FaultPlan
from examples.shop.outside.journal import Journal


async def serve(options: argparse.Namespace) -> None:
    """Serves SMTP in this thread and the control interface in another thread, until a signal."""
    faults = FaultPlan(MOMENTS)
    journal: Journal[Message] = Journal(options.log, Message)
    mailbag = Mailbag(journal)
    control = ControlServer((options.host, options.control_port), mailbag, faults)
    threading.Thread(target=control.serve_forever, daemon=True).start()
    smtp = await listen(MailHandler(mailbag, faults), options.host, options.port)
    port = smtp.sockets[0].getsockname()[1]
    sys.stdout.write(json.dumps({"port": port, "control_port": control.server_port}) + "\n")
    sys.stdout.flush()
    await smtp.serve_forever()


def main() -> None:
    """Serves until a signal."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.shop.mail", description="a mail server for tests"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="port of SMTP; 0: any free port")
    parser.add_argument(
        "--control-port", type=int, default=0, help="port of HTTP for messages and faults; 0: any free port"
    )
    parser.add_argument(
        "--log", type=Path, required=True, help="journal file, from which the server restores its state"
    )
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
