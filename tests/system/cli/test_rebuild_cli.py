"""The commands of `sluice rebuild`: their output, their changes and their refusals."""

import json
from typing import Any

import psycopg2
import pytest
from kafka import KafkaAdminClient
from kafka.structs import TopicPartition

from sluice.db.admin.audit import read_audits
from sluice.testing.servers.deployment import Deployment
from tests.system.conftest import MakeDeployment
from tests.system.tasks.rebuilding import PROJECTION, deploy_fix, deploy_wrong, payments, sluice, sluice_fails

LINES = 40
WHY = ("--reason", "the tax was wrong")


@pytest.fixture
def deployment(make_deployment: MakeDeployment) -> Deployment:
    """Returns a deployment with corrected code and LINES rows that have the wrong tax. No process runs."""
    made = deploy_wrong(make_deployment, partitions=1)
    made.run.start_bridge()
    made.run.start_worker(made.queues("payment"))
    made.produce(payments(0, LINES))
    made.wait_settled()
    made.run.stop_all()
    deploy_fix(made)
    return made


def said(deployment: Deployment, *words: str) -> str:
    """Returns the text output of `sluice rebuild …`."""
    return deployment.run.run_sluice("rebuild", *words)


def states(deployment: Deployment) -> dict[int, str]:
    """Returns generation → state."""
    return {one["generation"]: one["state"] for one in sluice(deployment, "status", PROJECTION)}


def test_every_rebuild_command_works_from_plan_to_drop(deployment: Deployment) -> None:
    plan = said(deployment, "plan", PROJECTION)
    assert "generation 1 is live, of revision 1; the code has revision 2" in plan
    assert f"{LINES} records to read" in plan
    assert (
        "no module of SLUICE_HANDLERS projects into nothing" in sluice_fails(deployment, "plan", "nothing")[1]
    )

    assert "would get a generation of revision 2" in said(deployment, "start", PROJECTION, *WHY, "--dry-run")
    assert states(deployment) == {1: "live"}
    assert "generation 2 of billing_line_items is building" in said(
        deployment, "start", PROJECTION, *WHY, "--no-wait", "--rate", "1000"
    )
    for verb, text in (("diff", "can be compared"), ("swap", "can be swapped in")):
        words = (verb, PROJECTION) if verb == "diff" else (verb, PROJECTION, *WHY)
        assert text in sluice_fails(deployment, *words)[1]
    assert "is paused" in said(deployment, "pause", PROJECTION, *WHY)
    assert "building, paused" in said(deployment, "status")
    assert "continues at 50 events a second" in said(deployment, "resume", PROJECTION, *WHY, "--rate", "50")
    assert (
        "Cannot ask for confirmation without a terminal"
        in sluice_fails(deployment, "cancel", PROJECTION, *WHY)[1]
    )
    assert "is dropped" not in said(deployment, "cancel", PROJECTION, *WHY, "--dry-run")
    assert states(deployment) == {1: "live", 2: "building"}
    assert "dropped" in said(deployment, "cancel", PROJECTION, *WHY, "--yes")

    report_of_others = psycopg2.connect(
        deployment.urls.database_url.replace("+psycopg2", ""), application_name="report"
    )
    report_of_others.set_session(isolation_level="REPEATABLE READ")
    report_of_others.cursor().execute("SELECT 1")
    deployment.run.start_rebuilds()
    deployment.run.start_relay()
    deployment.run.start_beat()
    started = said(deployment, "start", PROJECTION, *WHY)
    assert "generation 3 is ready" in started
    report = said(deployment, "diff", PROJECTION)
    assert f"0 rows the same, {LINES} differ, 0 only live, 0 only new" in report
    assert "tax_cents" in report
    assert "the differences would be approved" in said(deployment, "approve", PROJECTION, *WHY, "--dry-run")
    assert "is not approved" in sluice_fails(deployment, "swap", PROJECTION, *WHY, "--yes")[1]
    assert "the differences are approved" in said(deployment, "approve", PROJECTION, *WHY, "--yes")
    assert "would see generation 3" in said(deployment, "swap", PROJECTION, *WHY, "--dry-run")
    code, text = sluice_fails(deployment, "swap", PROJECTION, *WHY, "--yes", "--patience", "0")
    other = report_of_others.info
    named = f"pid {other.backend_pid} (role {other.user}, application 'report'"
    assert (code, named in text) == (2, True)
    assert "nothing was changed" in text
    report_of_others.close()
    assert "see generation 3; 1 is kept in sync" in said(deployment, "swap", PROJECTION, *WHY, "--yes")
    assert (
        "generation 3 of billing_line_items is live"
        in sluice_fails(deployment, "drop", PROJECTION, "--generation", "3", *WHY, "--yes")[1]
    )
    assert "dropped" in said(deployment, "drop", PROJECTION, *WHY, "--yes")
    verbs = [
        audit.verb for audit in read_audits(deployment.session, verb="rebuild", subject=PROJECTION, limit=20)
    ]
    assert sorted(verbs) == sorted(
        ["rebuild start", "rebuild pause", "rebuild resume", "rebuild cancel", "rebuild start",
         "rebuild approve", "rebuild swap", "rebuild drop"]
    )  # fmt: skip


def test_a_rebuild_of_a_truncated_topic_requires_a_checkpoint(deployment: Deployment) -> None:
    assert "kept" in said(deployment, "checkpoint", PROJECTION, "monday", *WHY)
    assert (
        "has a checkpoint monday already"
        in sluice_fails(deployment, "checkpoint", PROJECTION, "monday", *WHY)[1]
    )
    assert "small letters" in sluice_fails(deployment, "checkpoint", PROJECTION, "Mon day", *WHY)[1]
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues("payment"))
    deployment.produce(payments(LINES, 5))
    deployment.wait_settled()
    admin = KafkaAdminClient(bootstrap_servers=deployment.urls.kafka_bootstrap_servers.split(","))
    topic = f"payments{deployment.topic_suffix}"
    admin.delete_records({TopicPartition(topic, 0): LINES})
    admin.close()
    code, text = sluice_fails(deployment, "start", PROJECTION, *WHY)
    assert (code, f"{topic}[0] begins at offset {LINES}: records before it are deleted" in text) == (2, True)
    assert sluice_fails(deployment, "plan", PROJECTION)[0] == 1

    deployment.run.start_rebuilds()
    deployment.run.start_relay()
    deployment.run.start_beat()
    assert "generation 2 is ready" in said(deployment, "start", PROJECTION, *WHY, "--from", "monday")
    report: Any = json.loads(said(deployment, "diff", PROJECTION, "--json"))
    assert report["rows"] == {"same": LINES + 5, "only_live": 0, "only_new": 0, "differing": 0}
    assert "monday" in said(deployment, "status", PROJECTION)
    assert "dropped" in said(deployment, "checkpoint", PROJECTION, "monday", "--drop", *WHY, "--yes")
    assert (
        "has no checkpoint monday"
        in sluice_fails(deployment, "start", PROJECTION, *WHY, "--from", "monday")[1]
    )


def test_start_names_the_objects_that_depend_on_the_live_generation(deployment: Deployment) -> None:
    deployment.session.command(
        "CREATE VIEW public.taxes AS SELECT tax_cents FROM public.billing_line_items_g1"
    )
    deployment.session.command("ALTER TABLE public.billing_line_items_g1 ENABLE ROW LEVEL SECURITY")
    text = sluice_fails(deployment, "start", PROJECTION, *WHY)[1]
    assert "billing_line_items_g1 has the row-level security enabled, which a rebuild does not copy" in text
    assert "taxes reads billing_line_items_g1 directly" in text
