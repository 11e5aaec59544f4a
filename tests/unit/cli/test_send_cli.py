"""Options of `sluice send` that exclude or require each other, checked before Kafka is used."""

import pytest
from typer.testing import CliRunner

from sluice.cli.main import app

ENVIRON = {
    "SLUICE_DATABASE_URL": "postgresql+psycopg2://me@127.0.0.1:1/none",
    "SLUICE_REDIS_URL": "redis://127.0.0.1:1/0",
    # A command that connects to Kafka fails with another message.
    "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "SLUICE_HANDLERS": "examples.shop.handlers",
}
ORDER = ("orders", "--key", "o-1", "--type", "order.placed")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["orders", "--type", "order.placed"], "--key is missing"),
        (["orders", "--tombstone"], "--key is missing"),
        (["orders", "--key", "o-1"], "--type is missing"),
        (["orders", "--key", "", "--type", "order.plced"], "did you mean 'order.placed'?"),
        (["orders", "--key", "o-1", "--type", ""], "type is empty"),
        ([*ORDER, "--data", ""], "--data '': "),
        ([*ORDER, "--id", "", "--data", '{"customer_id": "c", "email": "e", "total_cents": 1}'], "has no id"),
        ([*ORDER, "--version", "one"], "--version must be an integer or an RFC 3339 timestamp"),
        ([*ORDER, "--topic", "users"], "for one event, the first argument"),
        ([*ORDER, "--rate", "5"], "for one event, the first argument"),
        ([*ORDER, "--tombstone"], "a tombstone has no --type"),
        ([*ORDER, "--data", "{"], "--data '{': not valid JSON"),
        ([*ORDER, "--data", "{}"], "Object missing required field `customer_id`"),
        (["orders", "--key", "o-1", "--type", "order.plced"], "did you mean 'order.placed'?"),
    ],
)
def test_an_invalid_event_is_refused_with_the_option_to_change(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["send", *words], env=ENVIRON)
    assert (result.exit_code, result.stdout) == (2, "")
    # A usage error is printed in a box.
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr
