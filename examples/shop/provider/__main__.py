"""`python -m examples.shop.provider` runs the payment provider and prints `{"port": …}` when it listens.

The provider exits at a signal. It needs no clean-up, even after kill -9: its journal has every answer.
"""

import argparse
import json
import sys
from datetime import timedelta
from pathlib import Path

from examples.shop.outside.journal import Journal
from examples.shop.provider.book import Book
from examples.shop.provider.lines import Line
from examples.shop.provider.server import ProviderServer

DAY_SECONDS = 86_400.0  # the minimum time for which Stripe stores a key


def main() -> None:
    """Serves until a signal."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.shop.provider", description="a payment provider for tests"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="port; 0: any free port")
    parser.add_argument(
        "--log", type=Path, required=True, help="journal file, from which the server restores its state"
    )
    parser.add_argument("--key-lifetime-seconds", type=float, default=DAY_SECONDS)
    options = parser.parse_args()
    journal: Journal[Line] = Journal(options.log, Line)
    book = Book(timedelta(seconds=options.key_lifetime_seconds))
    server = ProviderServer((options.host, options.port), book, journal)
    sys.stdout.write(json.dumps({"port": server.server_port}) + "\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
