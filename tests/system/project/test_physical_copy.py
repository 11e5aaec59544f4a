"""A physical copy of the database. Processes use the copy while the original runs, or instead of it."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.engine import make_url

from examples.shop.generate import generate
from sluice.db.admin.totals import read_positions
from sluice.db.connection import Session, Statement
from sluice.db.delivery.claims import read_claim_key, read_known_claims
from sluice.kafka_io.group_metadata import GroupMetadataReader
from sluice.runtime.kafka_access import KafkaAccess
from sluice.stack import Stack
from sluice.stack.patience import patient
from sluice.stack.postgres_files import find_programs
from sluice.tasks.installation.claim import Claim, seal_claim
from sluice.tasks.installation.claim_reader import CLAIMS_KEY
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import LocalRun, RunningProcess
from tests.harness import stacks
from tests.system.conftest import MakeDeployment
from tests.waiting import wait_until

LOUD_STOP_EXIT_CODE = 3
REFUSED_EXIT_CODE = 2
EVENTS = 200
COPY_SECONDS = 120
# This includes the 30 seconds for which a starting process watches claims that no bridge renews.
TAKE_OVER_SECONDS = 90.0
ADVICE = ("sluice init --new-installation", "sluice init --moved", "sluice init --original")

COUNT_CLAIMS = Statement("count_claims", "SELECT count(*) FROM sluice.claims")


@contextmanager
def physical_copy(postgres: Stack, *options: str) -> Iterator[Stack]:
    """Yields a running server on a base backup of a running Postgres.

    `options` are further options of pg_basebackup.
    """
    with stacks.own_stack() as copy:
        copy.start("postgres")
        copy.stop("postgres")
        shutil.rmtree(copy.data_dir("postgres"))
        url = make_url(postgres.database_url())
        subprocess.run(
            [
                str(find_programs().bin / "pg_basebackup"),
                *("-D", str(copy.data_dir("postgres")), "--checkpoint=fast", "--no-sync", *options),
                *("-h", str(url.host), "-p", str(url.port), "-U", str(url.username)),
            ],
            check=True,
            capture_output=True,
            timeout=patient(COPY_SECONDS),
        )
        copy.start("postgres")
        yield copy


@contextmanager
def run_on(copy: Stack, deployment: Deployment, redis_url: str = "") -> Iterator[LocalRun]:
    """Yields a runner that starts the deployment's processes on the copied database."""
    name = make_url(deployment.urls.database_url).database
    assert name is not None
    urls = replace(
        deployment.urls,
        database_url=copy.database_url(name),
        redis_url=redis_url or deployment.urls.redis_url,
    )
    with replace(deployment.run, urls=urls, folder=deployment.run.folder / "copy", processes=[]) as run:
        yield run


def started(deployment: Deployment, run: LocalRun, *, timeout_seconds: float = 60) -> RunningProcess:
    """Starts a bridge and waits until it has opened its consumer."""
    bridge = run.start_bridge()
    deployment.wait_until(
        lambda: "consumer opened" in bridge.log.read_text(),
        timeout_seconds=timeout_seconds,
        what="the bridge has joined the group",
    )
    return bridge


def wait_ended(deployment: Deployment, process: RunningProcess) -> None:
    deployment.wait_until(
        lambda: process.exit_code is not None,
        timeout_seconds=TAKE_OVER_SECONDS,
        what=f"{process.name} ends by itself",
    )


def apply_events(deployment: Deployment, *, seed: int) -> None:
    deployment.produce(generate("payments", count=EVENTS, seed=seed))
    deployment.wait_settled()


def look_at_claims(redis: Any) -> dict[bytes, bytes]:
    return dict(redis.hgetall(CLAIMS_KEY))


@pytest.mark.own("postgres")
@pytest.mark.matrix
@pytest.mark.parametrize("shares_redis", [True, False], ids=["one-redis", "other-redis"])
def test_a_base_backup_beside_its_original_is_refused(
    make_deployment: MakeDeployment, postgres: Stack, redis: Stack, shares_redis: bool
) -> None:
    deployment = make_deployment()
    original = [
        started(deployment, deployment.run),
        deployment.run.start_worker(deployment.queues("payment")),
    ]
    apply_events(deployment, seed=1)
    servers = deployment.urls.kafka_bootstrap_servers
    with closing(GroupMetadataReader(KafkaAccess(servers), deployment.installation.group)) as reader:
        wait_until(reader.read, timeout_seconds=30, what="Kafka contains a claim")
    other = "" if shares_redis else stacks.empty_redis(redis)
    with physical_copy(postgres) as copy, run_on(copy, deployment, other) as run:
        session = Session(run.urls.database_url, application_name="sluice check")
        before = read_positions(session), session.run(COUNT_CLAIMS)
        refused = [run.start_bridge(), run.start_worker(), run.start_beat()]
        for process in refused:
            wait_ended(deployment, process)
            assert process.exit_code not in (0, LOUD_STOP_EXIT_CODE)
            for way in ADVICE:
                assert way in process.tail()
        assert refused[0].exit_code == REFUSED_EXIT_CODE
        assert "consumer opened" not in refused[0].log.read_text()
        assert (read_positions(session), session.run(COUNT_CLAIMS)) == before
        session.close()
    assert [process.exit_code for process in original] == [None, None]
    apply_events(deployment, seed=2)
    assert deployment.complaints(deployment.tables()) == []


@pytest.mark.matrix
@pytest.mark.own("postgres")
def test_a_copy_takes_over_from_a_dead_original_although_the_last_claims_are_lost(
    make_deployment: MakeDeployment, postgres: Stack
) -> None:
    deployment = make_deployment()
    bridge = started(deployment, deployment.run)
    worker = deployment.run.start_worker(deployment.queues("payment"))
    apply_events(deployment, seed=1)
    with physical_copy(postgres) as copy, run_on(copy, deployment) as run:
        session = Session(run.urls.database_url, application_name="sluice check")

        def lost() -> bool:
            claims = [
                UUID(text.split(b".")[2].decode()) for text in look_at_claims(deployment.redis).values()
            ]
            return len(read_known_claims(session, claims).claims) < len(claims)

        wait_until(lost, timeout_seconds=60, what="Redis has a claim that the copy lacks")
        for process in (bridge, worker):
            process.kill()
        postgres.stop("postgres", signal="kill")
        successor = started(deployment, run, timeout_seconds=TAKE_OVER_SECONDS)
        run.start_worker(deployment.queues("payment"))
        deployment.produce(generate("payments", count=EVENTS, seed=2))
        taken_over = replace(deployment, urls=run.urls, run=run)
        taken_over.wait_settled()
        assert taken_over.complaints(deployment.tables()) == []
        assert "no claim of another server was renewed" in successor.log.read_text()
        taken_over.close()
        session.close()


def test_forged_and_replayed_claims_do_not_delay_a_bridge(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    redis, key = deployment.redis, read_claim_key(deployment.session)
    bridge = started(deployment, deployment.run)
    wait_until(lambda: look_at_claims(redis), timeout_seconds=60, what="the bridge writes its claim")
    assert bridge.stop() == 0
    ((field, text),) = look_at_claims(redis).items()
    writer = uuid4()
    foreign = Claim(9, uuid4(), writer, 2**40)
    forged: dict[str, Any] = {
        # In this order: a claim that another writer repeats, an altered claim, a claim with a wrong key, a
        # claim for another installation, and two texts that are no claims.
        uuid4().hex: text,
        field.decode(): text.replace(b"1.0.", b"1.9.", 1),
        writer.hex: seal_claim(bytes(32), deployment.installation.id, foreign),
        uuid4().hex: seal_claim(key, uuid4(), foreign),
        "garbage": b"\xff\x00" * 5_000,
        "": "",
    }
    for name, value in forged.items():
        redis.hset(CLAIMS_KEY, name, value)
    again = started(deployment, deployment.run)
    assert "watching" not in again.log.read_text()
    wait_until(
        lambda: not forged.keys() & {name.decode() for name in look_at_claims(redis)} - {field.decode()},
        timeout_seconds=60,
        what="the bridge deletes the invalid claims",
    )
    again.kill()
    redis.delete(CLAIMS_KEY)
    redis.set(CLAIMS_KEY, "not a hash")
    last = started(deployment, deployment.run)
    wait_until(
        lambda: redis.type(CLAIMS_KEY) == b"hash", timeout_seconds=60, what="the bridge's claim is written"
    )
    assert last.exit_code is None
    assert "watching" not in last.log.read_text()


@pytest.mark.matrix
@pytest.mark.own("postgres")
def test_the_original_displaces_a_copy_that_was_started_while_the_original_was_down(
    make_deployment: MakeDeployment, postgres: Stack
) -> None:
    deployment = make_deployment()
    bridge = started(deployment, deployment.run)
    deployment.run.start_worker(deployment.queues("payment"))
    apply_events(deployment, seed=1)
    assert bridge.stop() == 0
    with physical_copy(postgres) as copy, run_on(copy, deployment) as run:
        copied = started(deployment, run)
        back = deployment.run.start_bridge()
        wait_ended(deployment, back)
        assert back.exit_code == REFUSED_EXIT_CODE
        assert "sluice init --original" in back.tail()
        deployment.run.run_sluice("init", "--original", "--yes")
        back = started(deployment, deployment.run)
        wait_ended(deployment, copied)
        assert copied.exit_code == LOUD_STOP_EXIT_CODE
        assert "sluice init --original" in copied.tail()
        again = run.start_bridge()
        wait_ended(deployment, again)
        assert again.exit_code == REFUSED_EXIT_CODE
        apply_events(deployment, seed=2)
        assert back.exit_code is None
    assert deployment.complaints(deployment.tables()) == []
    audited = deployment.session.run(Statement("audited", "SELECT verb FROM sluice.audit"))
    assert audited == [("init original",)]


@pytest.mark.matrix
@pytest.mark.own("postgres")
def test_a_running_original_continues_beside_a_copy_and_doctor_reports_it(
    make_deployment: MakeDeployment, postgres: Stack
) -> None:
    deployment = make_deployment()
    bridge = started(deployment, deployment.run)
    deployment.run.start_worker(deployment.queues("payment"))
    apply_events(deployment, seed=1)
    key = read_claim_key(deployment.session)
    writer = uuid4()

    def renew() -> bool:
        # Renews a foreign claim, as a copy with the same rank would that was started by force.
        now = read_known_claims(deployment.session, []).now
        foreign = Claim(0, uuid4(), writer, now)
        deployment.redis.hset(CLAIMS_KEY, writer.hex, seal_claim(key, deployment.installation.id, foreign))
        return "another database works as this installation" in bridge.log.read_text()

    wait_until(renew, timeout_seconds=60, what="the bridge reports the copy", poll_seconds=1.0)
    told = deployment.run.sluice("doctor").stdout.decode()
    assert "error: Another database works as this installation" in told
    apply_events(deployment, seed=2)
    assert bridge.exit_code is None
