"""Generates the shop's events from a seed: the same arguments give the same records.

`python -m examples.shop.generate KIND` prints the events as lines for `sluice send -`.
"""

import argparse
import json
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

_START = datetime(2026, 1, 1, tzinfo=UTC)
_SEEDS, _NUMBERS = 100_000, 1_000_000


class OutgoingRecord(NamedTuple):
    """A record to produce: `value` is the event as plain JSON; None is a tombstone."""

    topic: str
    key: str
    value: dict[str, Any] | None


def generate(name: str, *, count: int, seed: int, keys: int = 100) -> Iterator[OutgoingRecord]:
    """Yields `count` records of one kind (see KINDS) over about `keys` entities. Raises KeyError.

    Each seed has its own payment and order numbers, because two payments with the same number would conflict.
    """
    kind = KINDS[name]
    first = (seed - 1) % _SEEDS * _NUMBERS if kind in (_payment, _capture, _order) else 0
    return _generate(kind, random.Random(f"{name}:{seed}"), range(first, first + count), keys)


def _generate(
    make: Callable[[random.Random, int, int], OutgoingRecord],
    rng: random.Random,
    numbers: Iterable[int],
    keys: int,
) -> Iterator[OutgoingRecord]:
    for number in numbers:
        yield make(rng, number, keys)


def event(
    rng: random.Random, kind: str, data: dict[str, Any], *, version: int | None = None, number: int = 0
) -> dict[str, Any]:
    """Returns an event in the form of the shop's producers."""
    made = {
        "event_id": str(UUID(int=rng.getrandbits(128), version=4)),
        "type": kind,
        "occurred_at": (_START + timedelta(milliseconds=number)).isoformat(),
        "data": data,
    }
    return made if version is None else {**made, "version": version}


def _payment(rng: random.Random, number: int, keys: int) -> OutgoingRecord:
    data = {"account_id": f"acc-{rng.randrange(keys)}", "amount_cents": rng.randint(1, 100_000)}
    return OutgoingRecord("payments", f"pay-{number}", event(rng, "payment.received", data, number=number))


def _capture(rng: random.Random, number: int, _keys: int) -> OutgoingRecord:
    data = {"amount_cents": rng.randint(1, 100_000)}
    return OutgoingRecord("captures", f"pay-{number}", event(rng, "payment.approved", data, number=number))


def _balance(rng: random.Random, number: int, keys: int) -> OutgoingRecord:
    data = {"balance_cents": rng.randint(0, 10_000_000)}
    return OutgoingRecord(
        "balances", f"acc-{rng.randrange(keys)}", event(rng, "balance.set", data, number=number)
    )


def _stock(rng: random.Random, number: int, keys: int) -> OutgoingRecord:
    kind = "stock.received" if number < keys or rng.random() < 0.1 else "stock.sold"
    data = {"quantity": rng.randint(50, 100) if kind == "stock.received" else rng.randint(1, 9)}
    product = number if number < keys else rng.randrange(keys)
    return OutgoingRecord("stock-updates", f"product-{product}", event(rng, kind, data, number=number))


def _order(rng: random.Random, number: int, keys: int) -> OutgoingRecord:
    customer = f"cust-{rng.randrange(keys)}"
    data = {
        "customer_id": customer,
        "email": f"{customer}@example.org",
        "total_cents": rng.randint(100, 99_999),
    }
    return OutgoingRecord("orders", f"order-{number}", event(rng, "order.placed", data, number=number))


def _user(rng: random.Random, number: int, keys: int) -> OutgoingRecord:
    data = {rng.choice(("email", "name")): f"value-{number}"}
    changed = event(rng, "user.changed", data, version=number + 1, number=number)
    return OutgoingRecord("users", f"user-{rng.randrange(keys)}", changed)


KINDS: dict[str, Callable[[random.Random, int, int], OutgoingRecord]] = {
    "payments": _payment,
    "captures": _capture,
    "balances": _balance,
    "stock": _stock,
    "orders": _order,
    "users": _user,
}


def lines(kind: str, *, count: int, seed: int, keys: int = 100, topic: str | None = None) -> Iterator[str]:
    """Yields each record as one JSON object for `sluice send`. `topic` replaces the topic of the kind."""
    for record in generate(kind, count=count, seed=seed, keys=keys):
        yield json.dumps({"key": record.key, "value": record.value, "topic": topic or record.topic})


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the lines to standard output. Returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        for line in lines(
            options.kind, count=options.count, seed=options.seed, keys=options.keys, topic=options.topic
        ):
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader closed the pipe. Without this redirection, Python would flush standard output at exit and
        # report the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.shop.generate",
        description="Print events of the shop, one JSON object per line, as `sluice send -` reads them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: python -m examples.shop.generate payments --count 1000 | sluice send -",
    )
    parser.add_argument(
        "kind", metavar="KIND", choices=sorted(KINDS), help=f"One of {', '.join(sorted(KINDS))}."
    )
    parser.add_argument("--count", type=_positive, default=1000, help="Number of events (default: 1000).")
    parser.add_argument(
        "--seed", type=int, default=1, help="The same seed makes the same events (default: 1)."
    )
    parser.add_argument(
        "--keys", type=_positive, default=100, help="Approximate number of entities (default: 100)."
    )
    parser.add_argument("--topic", help="Topic of the events (default: the topic of their kind).")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


if __name__ == "__main__":
    raise SystemExit(main())
