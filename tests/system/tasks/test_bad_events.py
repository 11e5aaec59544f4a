"""Events that cannot be applied become complete dead letters with the reason. Other events are applied."""

import pytest
from sqlalchemy import create_engine, text

from examples.shop import tables
from examples.shop.generate import OutgoingRecord, generate
from sluice.testing.servers.deployment import Deployment
from tests.system.conftest import MakeDeployment

GOOD = {"event_id": "e", "type": "payment.received", "data": {"account_id": "a", "amount_cents": 1}}
BAD: dict[str, tuple[object, str]] = {
    "undecodable": (b"\xff{", "DecodeError"),
    "oversized": (b'{"type": "x", "pad": "' + b"x" * 2_000_000 + b'"}', "DecodeError"),
    "invalid": ({**GOOD, "data": {"account_id": "a", "amount_cents": "1"}}, "DecodeError"),
    "of an unknown type": ({**GOOD, "type": "payment.vanished"}, "NoHandler"),
    "against a constraint": ({**GOOD, "data": {"account_id": "a", "amount_cents": -1}}, "CheckViolation"),
}


def test_only_the_bad_events_become_dead_letters_with_raw_bytes_and_reason(
    make_deployment: MakeDeployment,
) -> None:
    deployment = make_deployment(partitions=1)
    good = list(generate("payments", count=300, seed=1))
    bad = [OutgoingRecord("payments", f"bad {name}", value) for name, (value, _) in BAD.items()]  # type: ignore[arg-type]
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues("payment"))
    deployment.produce([*good[:150], *bad, *good[150:]])
    deployment.wait_settled()
    assert dict(deployment.outcomes()) == {"applied": len(good), "dead": len(bad)}
    assert set(deployment.rows(tables.transactions)) == {record.key for record in good}
    letters = _dead_letters(deployment)
    assert {key: error for key, (_, error) in letters.items()} == {
        f"bad {name}": error for name, (_, error) in BAD.items()
    }
    assert letters["bad undecodable"][0] == BAD["undecodable"][0]
    assert letters["bad oversized"][0] == BAD["oversized"][0]


BROKEN = {
    "table": ("transactions RENAME TO elsewhere", "elsewhere RENAME TO transactions"),
    "column": ("transactions RENAME amount_cents TO other", "transactions RENAME other TO amount_cents"),
}


@pytest.mark.parametrize(("breaks", "mends"), BROKEN.values(), ids=BROKEN)
def test_a_missing_table_or_column_halts_its_queues_until_it_exists(
    make_deployment: MakeDeployment, breaks: str, mends: str
) -> None:
    deployment = make_deployment()
    engine = create_engine(deployment.urls.database_url)
    with engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE public.{breaks}"))
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues())
    deployment.produce([*generate("payments", count=400, seed=1), *generate("orders", count=400, seed=1)])
    deployment.wait_until(
        lambda: dict(deployment.outcomes("orders")) == {"applied": 400} and _halted(deployment) >= 1,
        timeout_seconds=60,
        what="orders are applied while payments are halted",
    )
    assert not deployment.outcomes("payments")
    assert not _dead_letters(deployment)
    with engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE public.{mends}"))
    engine.dispose()
    deployment.wait_settled(timeout_seconds=90)
    assert dict(deployment.outcomes("payments")) == {"applied": 400}
    assert _halted(deployment) == 0


def test_a_deployment_in_which_every_event_fails_halts_after_few_dead_letters(
    make_deployment: MakeDeployment,
) -> None:
    deployment = make_deployment()
    engine = create_engine(deployment.urls.database_url)
    with engine.begin() as connection:
        connection.execute(
            text("ALTER TABLE public.transactions ADD CONSTRAINT wrong CHECK (amount_cents < 0)")
        )
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues())
    deployment.produce([*generate("payments", count=800, seed=1), *generate("orders", count=400, seed=1)])
    deployment.wait_until(
        lambda: dict(deployment.outcomes("orders")) == {"applied": 400} and _halted(deployment) == 4,
        timeout_seconds=60,
        what="all queues of payments are halted, and orders are applied",
    )
    # A queue halts after few failures. The batch that halts a queue stores no dead letters.
    assert len(_dead_letters(deployment)) < 4 * 200
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE public.transactions DROP CONSTRAINT wrong"))
    engine.dispose()
    deployment.wait_settled(timeout_seconds=90)
    outcomes = deployment.outcomes("payments")
    assert outcomes["applied"] + outcomes["dead"] + outcomes["waiting"] == 800
    assert outcomes["applied"] > outcomes["dead"] + outcomes["waiting"]
    assert _halted(deployment) == 0


def test_a_suppressed_write_halts_the_queue_until_later_events_show_that_only_one_event_fails(
    make_deployment: MakeDeployment,
) -> None:
    deployment = make_deployment()
    engine = create_engine(deployment.urls.database_url)
    with engine.begin() as connection:
        connection.execute(text(SUPPRESSING))
    engine.dispose()
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues("payment"))
    deployment.produce([OutgoingRecord("payments", "suppressed", GOOD)])
    deployment.wait_until(
        lambda: _halted(deployment) == 1, timeout_seconds=60, what="the single event halts its queue"
    )
    assert not _dead_letters(deployment)
    deployment.produce(generate("payments", count=100, seed=1))
    deployment.wait_settled()
    assert dict(deployment.outcomes()) == {"applied": 100, "dead": 1}
    assert {key: error for key, (_, error) in _dead_letters(deployment).items()} == {
        "suppressed": "WriteSuppressed"
    }
    assert _halted(deployment) == 0


SUPPRESSING = """
    CREATE FUNCTION public.suppress() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER suppress BEFORE INSERT ON public.transactions
    FOR EACH ROW WHEN (NEW.payment_id = 'suppressed') EXECUTE FUNCTION public.suppress()
"""


def _dead_letters(deployment: Deployment) -> dict[str, tuple[bytes, str]]:
    engine = create_engine(deployment.urls.database_url)
    with engine.begin() as connection:
        found = connection.execute(text("SELECT key, value, error_class FROM sluice.dead_letters")).all()
    engine.dispose()
    return {bytes(key).decode(): (bytes(value), error) for key, value, error in found}


def _halted(deployment: Deployment) -> int:
    with deployment.session.connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM sluice.queues WHERE halted_reason IS NOT NULL")
        row = cursor.fetchone()
    assert row is not None
    return int(row[0])
