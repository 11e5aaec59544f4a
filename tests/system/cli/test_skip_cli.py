"""`sluice skip` on real services: every reader of the log skips the batch and reads all other records."""

import subprocess

import pytest

from sluice.db.admin.letters import Chosen, read_letters
from sluice.stack import Stack
from tests.harness.raw_batches import damage_batch, damage_payload
from tests.system.cli.skipping import (
    ALREADY,
    assert_commands_read,
    deploy,
    place_of,
    produce_records,
    skip_document,
    wait_applied,
)
from tests.system.cli.test_cli import WHY, document, errors, sluice
from tests.system.conftest import MakeDeployment
from tests.system.tasks import rebuilding
from tests.system.tasks.rebuilding import PROJECTION, payments, wait_ready

BOMB_BYTES = 110_000_000  # librdkafka does not decompress a zstd batch of this size.
AFTER = 2


def refusal(done: subprocess.CompletedProcess[bytes]) -> str:
    """Returns the error message of a command that was refused."""
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    return done.stderr.decode()


@pytest.mark.matrix
def test_only_the_batch_that_is_too_large_when_unpacked_is_skipped(make_deployment: MakeDeployment) -> None:
    deployment = deploy(make_deployment)
    topic, _ = place_of(deployment)
    bomb = produce_records(deployment, [("k", b"\0" * BOMB_BYTES)], codec="zstd")
    deployment.produce(payments(ALREADY, AFTER))
    assert "cannot be read" in refusal(sluice(deployment, "trace", f"{topic}:0:{bomb}"))
    for offset, sentence in (
        (0, "already has an outcome"),
        (bomb + 1, "can be read, so it is not skipped"),
        (bomb + 99, "is not in the log"),
    ):
        assert sentence in refusal(sluice(deployment, "skip", f"{topic}:0:{offset}", *WHY, "--yes"))

    shown = skip_document(deployment, bomb, "--dry-run")
    assert (shown["first_offset"], shown["last_offset"], shown["records"]) == (bomb, bomb, 1)
    assert deployment.outcomes("payments") == {"applied": ALREADY}
    assert skip_document(deployment, bomb, "--yes") == shown | {"dry_run": False}
    wait_applied(deployment, ALREADY + AFTER)

    assert "is skipped already" in refusal(sluice(deployment, "skip", f"{topic}:0:{bomb}", *WHY, "--yes"))
    assert "was skipped" in refusal(sluice(deployment, "trace", f"{topic}:0:{bomb}"))
    assert document(sluice(deployment, "verify", "--json"))["ok"]
    (letter,) = read_letters(deployment.session, Chosen(), after=0, limit=9)
    assert (letter.partition, letter.offset, letter.error_class) == (0, bomb, "RecordSkipped")
    assert "never read" in refusal(sluice(deployment, "dlq", "redrive", str(letter.id), *WHY, "--yes"))
    assert document(sluice(deployment, "dlq", "redrive", "--all", *WHY, "--yes", "--json"))["redriven"] == []
    (audited,) = document(sluice(deployment, "audit", "ls", "--verb", "skip", "--json"))["audit"]
    assert audited["subject"] == f"{topic}:0:{bomb}"
    assert sluice(deployment, "dlq", "drop", str(letter.id), *WHY, "--yes").returncode == 0
    # The bridge writes its report every few seconds.
    deployment.wait_until(
        lambda: not [one for one in errors(deployment) if topic in one],
        timeout_seconds=60,
        what="doctor finds no problem of the topic",
    )


@pytest.mark.matrix
def test_a_bridge_and_a_rebuild_that_start_later_do_not_read_the_skipped_batch(
    make_deployment: MakeDeployment, kafka: Stack
) -> None:
    deployment = deploy(make_deployment)
    # A running bridge would read the batch before the test damages it.
    deployment.run.stop_all()
    first = produce_records(deployment, [("k", b"x" * 50)] * 3, codec="lz4")
    damage_batch(kafka, place_of(deployment), first, damage_payload)
    deployment.produce(payments(ALREADY, AFTER))
    shown = skip_document(deployment, first + 1, "--yes")
    assert (shown["first_offset"], shown["last_offset"], shown["records"]) == (first, first + 2, 3)
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues("payment"))
    wait_applied(deployment, ALREADY + AFTER)
    deployment.run.start_rebuilds()
    rebuilding.sluice(deployment, "start", PROJECTION, *WHY, "--no-wait")
    deployment.run.start_beat()
    wait_ready(deployment, 2)


def test_every_codec_is_read_by_bridge_and_commands(make_deployment: MakeDeployment) -> None:
    assert_commands_read(make_deployment)
