"""A standby is promoted under load. The primary's last commits are lost, and every event is applied again."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy.engine import URL, make_url

from examples.shop.generate import generate
from sluice.db.admin.totals import read_totals
from sluice.db.connection import Session, Statement
from sluice.stack import Stack
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.oracle import read_log
from tests.harness import stacks
from tests.harness.providers import Providers
from tests.harness.storm import mixed_events
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import SteadyLoad, assert_equals_the_oracle
from tests.system.project.test_physical_copy import physical_copy
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.own("postgres"),
    pytest.mark.all_rights("the URL has two hosts"),
    pytest.mark.matrix,
]

RATE = 100
LOST = 5 * RATE
"""The number of events whose outcomes at least are lost."""
FEW = 100
"""The number of events before the standby stops to receive, and after that."""

COUNT_STANDBYS = Statement("count_standbys", "SELECT count(*) FROM pg_stat_replication")


@pytest.fixture
def primary_url(postgres: Stack) -> Iterator[str]:
    """Yields the URL of a database on the primary."""
    with stacks.database(postgres) as url:
        yield url


@pytest.fixture
def standby(primary_url: str, postgres: Stack) -> Iterator[Stack]:
    """Yields an asynchronous standby of the primary. It receives the WAL of the primary."""
    with physical_copy(postgres, "--write-recovery-conf") as copy:
        wait_until(lambda: _standbys(primary_url) == 1, timeout_seconds=60, what="the standby receives WAL")
        yield copy


@pytest.fixture
def database_url(primary_url: str, standby: Stack) -> str:
    """Returns a URL with both hosts. Sessions use the host that accepts writes."""
    url = make_url(primary_url)
    hosts = tuple(f"{url.host}:{make_url(one).port}" for one in (primary_url, standby.database_url()))
    query = {"host": hosts, "target_session_attrs": "read-write"}
    both = URL.create(url.drivername, url.username, database=url.database, query=query)
    return both.render_as_string(hide_password=False)


def _standbys(primary_url: str) -> int:
    with closing(Session(primary_url, application_name="test")) as session:
        return int(session.run(COUNT_STANDBYS)[0][0])


def stop_receiving(standby: Stack, primary_url: str) -> None:
    """Makes the standby receive no further WAL, so that further commits of the primary will be lost."""
    with closing(_session_on(standby, primary_url)) as session:
        session.command("ALTER SYSTEM SET primary_conninfo = ''")
        session.command("SELECT pg_reload_conf()")
    wait_until(lambda: _standbys(primary_url) == 0, timeout_seconds=60, what="the standby receives no WAL")


def _session_on(standby: Stack, primary_url: str) -> Session:
    name = make_url(primary_url).database
    assert name is not None
    return Session(standby.database_url(name), application_name="test", may_be_read_only=True)


def replace_primary(deployment: Deployment, primary: Stack, standby: Stack, primary_url: str) -> int:
    """Kills the primary and promotes the standby. Returns the number of outcomes that are lost."""
    before = deployment.outcomes().total()
    deployment.session.close()
    primary.stop("postgres", signal="kill")
    with closing(_session_on(standby, primary_url)) as session:
        kept = sum(number for _, _, number in read_totals(session))
        session.command("SELECT pg_promote()")
    return before - kept


def sent_events(deployment: Deployment) -> Counter[bytes]:
    """Returns event id → how often the relay sent the event."""
    log = read_log(deployment.urls.kafka_access, deployment.registry.outgoing_topics)
    ids = (dict(record.headers)["ce_id"] for records in log.values() for record in records)
    return Counter(one for one in ids if one is not None)


def test_a_failover_of_an_idle_installation_loses_no_event(
    make_deployment: MakeDeployment, primary_url: str, postgres: Stack, standby: Stack
) -> None:
    deployment = make_deployment()
    processes = [deployment.run.start_bridge(), deployment.run.start_worker()]
    deployment.produce(generate("payments", count=FEW, seed=1))
    deployment.wait_settled()
    stop_receiving(standby, primary_url)
    deployment.produce(generate("payments", count=FEW, seed=2))
    deployment.wait_settled()
    assert replace_primary(deployment, postgres, standby, primary_url) >= FEW
    deployment.wait_settled(timeout_seconds=120)
    assert_equals_the_oracle(deployment)
    assert [process.exit_code for process in processes] == [None, None]


@pytest.mark.parametrize("is_idle", [False, True], ids=["under load", "idle"])
def test_events_whose_commits_are_lost_are_applied_and_counted_again(
    make_deployment: MakeDeployment,
    providers: Providers,
    primary_url: str,
    postgres: Stack,
    standby: Stack,
    is_idle: bool,
) -> None:
    deployment = make_deployment(**providers.environ())
    run = deployment.run
    started = [run.start_bridge(), run.start_worker(), run.start_worker(name="worker-2"), run.start_relay()]
    started += [run.start_effects(), run.start_beat()]

    def settled() -> int:
        return deployment.outcomes().total()

    with SteadyLoad(deployment, lambda count, first: mixed_events(count, seed=first), rate=RATE) as load:
        wait_until(lambda: settled() > LOST, timeout_seconds=60, what="events are applied")
        stop_receiving(standby, primary_url)
        base = settled()
        wait_until(lambda: settled() > base + LOST, timeout_seconds=60, what="commits that will be lost")
        if not is_idle:
            lost = replace_primary(deployment, postgres, standby, primary_url)
            load.wait_more(5)
    if is_idle:
        deployment.wait_settled()
        deployment.wait_sent()
        deployment.wait_called()
        lost = replace_primary(deployment, postgres, standby, primary_url)
    deployment.wait_settled(timeout_seconds=120)
    deployment.wait_sent(timeout_seconds=120)
    deployment.wait_called(timeout_seconds=120)
    assert lost >= LOST
    assert_equals_the_oracle(deployment)
    assert [process.exit_code for process in started] == [None] * len(started)
    # Events that were sent although their rows are lost are sent again, with their ids.
    assert max(sent_events(deployment).values()) > 1
    captured = Counter(capture.reference for capture in providers.payments.captures())
    assert set(captured.values()) == {1}
