"""While workers with old and new code run, no queue halts. Events that only new code handles wait for it."""

import json
from collections.abc import Iterable
from dataclasses import replace

import pytest

from examples.shop.generate import OutgoingRecord
from sluice.db.admin.totals import read_queues
from sluice.db.delivery.leases import read_workers
from sluice.db.delivery.undeclared import HALTED_SECONDS
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import LocalRun
from tests.scraping import scrape
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import assert_equals_the_oracle

APPS = "tests.system.worker.rolling_"
OLD, NEW, NEWS = f"{APPS}old_app", f"{APPS}new_app", f"{APPS}news_app"
EVENTS = 100
# This is more than the bridge may have in flight, which is 8 messages of 200 records for each of 4 queues.
MANY = 8_000

_APP = """\
from dataclasses import replace
import {base} as base
from {base} import *
topics = tuple(replace(topic, name=topic.name + "{suffix}") for topic in base.topics)
"""


def events(topic: str, kind: str, count: int, *, first: int = 0) -> Iterable[OutgoingRecord]:
    """Yields events of forty keys. Their version increases, so a wrong order would change the rows."""
    for number in range(first, first + count):
        value = {"type": kind, "event_id": f"{topic}-{number}", "version": number, "data": {"amount": number}}
        yield OutgoingRecord(f"rolling-{topic}", f"{topic}-{number % 40}", value)


def things(count: int, *, first: int = 0) -> Iterable[OutgoingRecord]:
    return events("things", "thing.counted", count, first=first)


def news(count: int) -> Iterable[OutgoingRecord]:
    return events("news", "news.told", count)


def of(deployment: Deployment, base: str) -> LocalRun:
    """Returns a runner that starts processes with other code on the same topics."""
    module = base.rpartition(".")[2] + deployment.topic_suffix.replace("-", "_")
    text = _APP.format(base=base, suffix=deployment.topic_suffix)
    (deployment.run.folder / f"{module}.py").write_text(text)
    return replace(deployment.run, handlers=module, processes=deployment.run.processes)


def wait_applied(deployment: Deployment, topic: str, count: int, seconds: float = 60) -> None:
    deployment.wait_until(
        lambda: deployment.outcomes(f"rolling-{topic}")["applied"] >= count,
        timeout_seconds=seconds,
        what=f"{count} events of {topic} are applied",
    )


def holders(deployment: Deployment) -> dict[str, str]:
    """Returns queue → name of the worker that holds it."""
    return {q: node.partition("@")[0] for q, node in read_workers(deployment.session).holders().items()}


def assert_none_halted(deployment: Deployment) -> None:
    assert not [name for name, state in read_queues(deployment.session).items() if state.halted_reason]


@pytest.mark.matrix
@pytest.mark.parametrize("named", [False, True], ids=["queues shared", "queues named"])
def test_events_that_old_workers_do_not_know_wait_for_a_new_worker_without_a_halt(
    make_deployment: MakeDeployment, named: bool
) -> None:
    deployment = make_deployment(NEW)
    new, old = deployment.run, of(deployment, OLD)
    queues = deployment.queues()
    # Only the bridge and the beat have new code. If queues are named, -Q also contains queues that the old
    # code does not declare.
    old_worker = old.start_worker(queues if named else None, name="old")
    old.start_relay(name="old-relay")
    old.start_effects(name="old-effects", pool="solo")
    new.start_beat()
    new.start_bridge()
    deployment.produce(events("others", "thing.counted", EVENTS))
    deployment.produce(news(EVENTS))
    deployment.produce(things(EVENTS))
    wait_applied(deployment, "things", EVENTS)
    assert deployment.outcomes("rolling-news") == deployment.outcomes("rolling-others") == {}
    assert_none_halted(deployment)
    if not named:
        assert holders(deployment) == dict.fromkeys(deployment.queues("thing"), "old")
    new.start_worker(queues if named else None, name="new")
    if named:
        # If both workers ran, both would pop from the same lists. If the old worker leaves a message, the
        # bridge sends the message again, but with growing pauses.
        old_worker.stop()
    deployment.produce(things(EVENTS, first=EVENTS))
    deployment.wait_settled(timeout_seconds=180)
    assert_none_halted(deployment)
    if not named:
        assert holders(deployment) == dict.fromkeys(queues, "new")
    # The relay and the only effects worker have old code.
    assert deployment.calls() == {"pending": EVENTS}
    sent = "SELECT FROM sluice.executed_side_effects WHERE dispatched_at IS NOT NULL"
    with deployment.session.connection.cursor() as cursor:
        cursor.execute(sent)
        assert cursor.fetchall() == []
    new.start_effects(name="new-effects", pool="solo")
    deployment.wait_called(timeout_seconds=180)
    assert deployment.calls() == {"succeeded": EVENTS}
    assert_equals_the_oracle(deployment)


def test_two_workers_that_each_declare_only_one_of_two_topics_apply_both_topics(
    make_deployment: MakeDeployment,
) -> None:
    deployment = make_deployment(NEW)
    of(deployment, OLD).start_worker(name="old")
    of(deployment, NEWS).start_worker(name="news")
    deployment.run.start_bridge()
    deployment.produce(things(EVENTS))
    deployment.produce(news(EVENTS))
    deployment.wait_settled(timeout_seconds=180)
    assert_none_halted(deployment)
    assert_equals_the_oracle(deployment)


@pytest.mark.matrix
def test_a_topic_without_a_worker_blocks_no_other_topic_and_is_reported(
    make_deployment: MakeDeployment,
) -> None:
    deployment = make_deployment(NEW)
    new, old = deployment.run, of(deployment, OLD)
    old.start_worker(name="old")
    old.start_relay(name="old-relay")
    new.start_bridge()
    new.with_metrics = True
    beat = new.start_beat()
    deployment.produce(things(10))
    wait_applied(deployment, "things", 10)
    deployment.produce(news(MANY))
    applied = 10
    for _ in range(8):
        deployment.produce(things(100, first=applied))
        applied += 100
        wait_applied(deployment, "things", applied, seconds=30)
    deployment.wait_until(lambda: waiting(deployment) != {}, timeout_seconds=60, what="the topic is recorded")
    assert_none_halted(deployment)
    assert shown(new) == ([], False)
    topic = f"rolling-news{deployment.topic_suffix}"
    deployment.session.command(
        f"UPDATE sluice.undeclared SET waited_seconds = {HALTED_SECONDS} WHERE name = '{topic}'"
    )
    assert shown(new) == ([topic], True)
    deployment.wait_until(
        lambda: (scrape(beat.metrics_port) or {}).get(("sluice_halted_topics", ())) == 1,
        timeout_seconds=60,
        what="the metric shows the topic",
    )
    new.start_worker(name="new")
    deployment.wait_settled(timeout_seconds=180)
    deployment.wait_until(lambda: waiting(deployment) == {}, timeout_seconds=60, what="the record is deleted")
    assert shown(new) == ([], False)
    assert_equals_the_oracle(deployment)


def waiting(deployment: Deployment) -> dict[str, float]:
    """Returns topic → seconds for which the topic has waited for a worker."""
    with deployment.session.connection.cursor() as cursor:
        cursor.execute("SELECT name, waited_seconds FROM sluice.undeclared")
        return dict(cursor.fetchall())


def shown(run: LocalRun) -> tuple[list[str], bool]:
    """Returns the halted topics of `sluice status`, and True if `sluice doctor` reports a halted topic."""
    status = json.loads(run.run_sluice("status", "--json"))
    findings = run.sluice("doctor", "--json").stdout.decode()
    return [
        one["topic"] for one in status["topics"] if one["halted_reason"]
    ], "is halted: no running" in findings
