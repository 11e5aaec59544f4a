"""The command line on real services. Each command runs as a process, and the tests check the output."""

import json
import subprocess
import time
from collections.abc import Mapping
from typing import Any

import pytest

from examples.shop import tables
from examples.shop.generate import generate, lines
from sluice.bridge.partitioner import expected_partition
from sluice.cli.dev_processes import NAMES
from sluice.cli.main import COMMANDS
from sluice.db.apply.guard import COUNTERS
from sluice.runtime.kafka_access import KafkaAccess
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.oracle import read_log
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import assert_equals_the_oracle

WHY = ("--reason", "a test")
DEAD = "127.0.0.1:1"  # No process listens at this port.


def sluice(
    deployment: Deployment, *words: str, given: bytes | None = None, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Runs a command of this deployment to its end. `given` is its standard input."""
    return deployment.run.sluice(*words, given=given, environ=environ)


def document(done: subprocess.CompletedProcess[bytes]) -> Any:
    """Returns the command's standard output, which must be one JSON document."""
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return json.loads(done.stdout)


def errors(deployment: Deployment) -> list[str]:
    """Returns the problems that `doctor` finds. Asserts the exit code: 1 with problems, else 0."""
    done = sluice(deployment, "doctor", "--json")
    found = [one["problem"] for one in document(done)["findings"] if one["severity"] == "error"]
    assert done.returncode == (1 if found else 0)
    return found


def generated(kind: str, **options: Any) -> bytes:
    """Returns the output of `python -m examples.shop.generate`."""
    return "".join(f"{line}\n" for line in lines(kind, seed=1, **options)).encode()


def line(key: str | None, value: object, **more: object) -> str:
    return json.dumps({"key": key, "value": value, **more})


@pytest.mark.own("postgres")
def test_init_creates_missing_tables_and_topics_and_is_idempotent(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    module, suffix = deployment.run.handlers, deployment.topic_suffix
    source = (deployment.run.folder / f"{module}.py").read_text()
    (deployment.run.folder / f"{module}_new.py").write_text(source.replace(suffix, f"{suffix}-new"))
    environ = {"SLUICE_HANDLERS": f"{module}_new"}
    deployment.session.command("DROP TABLE public.users")
    deployment.session.command("DELETE FROM sluice.queues WHERE queue = 'order.3'")
    topics = sorted(f"{topic}-new" for topic in deployment.registry.topics)

    first = document(sluice(deployment, "init", "--partitions", "3", "--json", environ=environ))
    assert (first["tables"], first["topics"]) == (["users"], topics)
    assert first["shards"] == first["declared_shards"]
    second = sluice(deployment, "init", environ=environ)
    assert second.returncode == 0
    assert b"tables made: none were missing\ntopics made: none were missing" in second.stdout
    assert "order.3" in deployment.queues("order")
    log = read_log(KafkaAccess(deployment.urls.kafka_bootstrap_servers), topics)
    assert {number for _, number in log} == {0, 1, 2}
    assert errors(deployment) == []


@pytest.mark.unforked
def test_sent_events_are_applied_and_counted(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues())
    payments, orders, users = (name + deployment.topic_suffix for name in ("payments", "orders", "users"))
    user = {"event_id": "u-1", "type": "user.changed", "version": 1, "data": {"name": "Ann"}}
    cloud = {"ce_specversion": "1.0", "ce_id": "c-1", "ce_type": "user.changed", "ce_source": "test"}
    events = deployment.run.folder / "events.jsonl"
    events.write_text(
        "\n".join(
            [
                *(line(made.key, made.value) for made in generate("orders", count=50, seed=1)),
                line("ann", user, topic=users),
                line("bob", {"email": "b@example.org"}, topic=users, headers={**cloud, "ce_version": "1"}),
                "",
                line("ann", user, topic=users),
                line("nobody", "no event at all"),
            ]
        )
    )
    refused = sluice(deployment, "send", str(events), "--topic", orders)
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert b"line 55: expected a JSON object" in refused.stderr
    sent = document(sluice(deployment, "send", str(events), "--topic", orders, "--no-check", "--json"))
    assert sent == {"acknowledged": 54, "topics": {orders: 51, users: 3}}
    made = generated("payments", count=300, topic=payments)
    assert (
        f"300 events acknowledged: 300 to {payments}"
        in sluice(deployment, "send", "-", given=made).stdout.decode()
    )
    assert document(sluice(deployment, "send", "-", "--json", given=made))["acknowledged"] == 300
    deployment.wait_settled()
    assert_equals_the_oracle(deployment)

    done = sluice(deployment, "status", "--json")
    assert done.returncode == 0
    status = document(done)
    topics = {topic["topic"]: topic for topic in status["topics"]}
    assert set(topics) == set(deployment.registry.topics)
    for name, topic in topics.items():
        assert {k: v for k, v in topic["counters"].items() if v} == dict(
            deployment.outcomes(name.removesuffix(deployment.topic_suffix))
        )
        assert topic["log_end"] == sum(part["log_end"] for part in topic["partitions"])
        assert (topic["lag"], topic["oldest_unapplied_seconds"]) == (0, None)
    assert topics[payments]["counters"] == dict.fromkeys(COUNTERS, 0) | {"applied": 300, "duplicate": 300}
    assert topics[users]["counters"] == dict.fromkeys(COUNTERS, 0) | {"applied": 2, "duplicate": 1}
    assert topics[orders]["counters"] == dict.fromkeys(COUNTERS, 0) | {"applied": 50, "dead": 1}
    assert [queue["queue"] for queue in status["queues"]] == sorted(deployment.queues())
    assert sum(queue["counters"]["duplicate"] for queue in status["queues"]) == 301
    assert {queue["length"] for queue in status["queues"]} == {0}
    log = read_log(KafkaAccess(deployment.urls.kafka_bootstrap_servers), [payments])
    assert all(expected_partition(r.key or b"", 4) == n for (_, n), records in log.items() for r in records)


@pytest.mark.own("postgres")
@pytest.mark.unforked
@pytest.mark.matrix
def test_every_command_runs_as_a_new_interpreter(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment(partitions=1)
    users = "users" + deployment.topic_suffix
    events = generated("users", count=1, topic=users)
    groups = ("outbox", "effects", "dlq", "audit", "queue", "redis")
    commands = (
        ["init"],
        ["send", "-"],
        ["status"],
        ["workers"],
        ["doctor"],
        ["verify"],
        ["trace", f"{users}:0:0"],
        ["pause", "--topic", users, *WHY],
        ["resume", "--topic", users, *WHY],
        ["accept", users, *WHY, "--dry-run"],
        ["skip", f"{users}:0:0", *WHY, "--dry-run"],
        ["reshard", "user", "5", *WHY, "--dry-run"],
        ["erase", "user", "user-0", "--dry-run"],
        ["dedup", users, "id", *WHY, "--yes"],
        ["grants", "--for", "worker"],
        *([group, "ls"] for group in groups),
        ["rebuild", "status"],
        ["stack", "status"],
    )
    # Other tests run `new`, and the commands that run until they are stopped.
    assert {words[0] for words in commands} == set(COMMANDS) - {*NAMES, "dev", "new"}
    ended = {" ".join(words): sluice(deployment, *words, given=events) for words in commands}
    # `trace`, `accept`, `skip` and `dedup` fail because no bridge has read the topic. `stack` fails because
    # there is no stack.
    refused = {name for name, done in ended.items() if done.returncode}
    assert {name.split()[0] for name in refused} == {"trace", "accept", "skip", "dedup", "stack"}, [
        ended[name] for name in refused
    ]
    assert not [done for done in ended.values() if b"Traceback" in done.stderr]


def test_an_event_from_the_command_line_is_applied(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues())
    users = "users" + deployment.topic_suffix
    typed = ("send", users, "--key", "ann", "--id", "u-1", "--type", "user.changed")
    said = sluice(deployment, *typed, "--version", "1", "--data", '{"name": "Ann"}').stdout.decode()
    [place] = [word for word in said.split() if word.startswith(f"{users}:") and word.endswith(":0")][-1:]
    deployment.wait_settled()
    assert deployment.rows(tables.users)["ann"]["name"] == "Ann"
    assert b"outcome: applied" in sluice(deployment, "trace", place).stdout
    gone = document(sluice(deployment, "send", users, "--key", "ann", "--tombstone", "--json"))
    assert gone == {"topic": users, "partition": int(place.split(":")[1]), "offset": 1, "event_id": None}
    unknown = sluice(deployment, "send", "nope", "--key", "ann", "--type", "user.changed")
    assert (unknown.returncode, unknown.stdout) == (2, b"")
    assert b"Kafka has no topic nope" in unknown.stderr


def test_status_reports_the_age_of_the_oldest_unapplied_record(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    users = "users" + deployment.topic_suffix
    assert sluice(deployment, "send", "-", given=generated("users", count=40, topic=users)).returncode == 0
    log = read_log(KafkaAccess(deployment.urls.kafka_bootstrap_servers), [users])
    oldest = min(record.timestamp_ms for records in log.values() for record in records) / 1000
    slow = ("send", "-", "--rate", "20")
    assert sluice(deployment, *slow, given=generated("users", count=20, topic=users)).returncode == 0
    before = time.time()
    [topic] = [
        topic
        for topic in document(sluice(deployment, "status", "--json"))["topics"]
        if topic["topic"] == users
    ]
    assert before - oldest <= topic["oldest_unapplied_seconds"] <= time.time() - oldest
    assert (topic["log_end"], topic["watermark"], topic["lag"]) == (60, None, 60)


def test_a_file_with_a_bad_line_sends_nothing_and_a_pipe_sends_the_lines_before_it(
    make_deployment: MakeDeployment,
) -> None:
    deployment = make_deployment()
    users = "users" + deployment.topic_suffix
    good = line("ann", {"event_id": "u-1", "type": "user.changed", "version": 1, "data": {}})
    for bad, reason in (('{"key": "bob"}', "`value`"), (line("b", 1, topic="none"), "no topic none")):
        text = f"{good}\n\n{bad}\n{good}\n"
        events = deployment.run.folder / "events.jsonl"
        events.write_text(text)
        refused = sluice(deployment, "send", str(events), "--topic", users)
        assert (refused.returncode, refused.stdout) == (2, b"")
        assert "line 3: " in refused.stderr.decode()
        assert reason in refused.stderr.decode()
        assert b"no record was sent" in refused.stderr
        assert produced(deployment, users) == 0
    piped = sluice(deployment, "send", "-", "--topic", users, given=text.encode())
    assert piped.returncode == 2
    assert b"line 3: " in piped.stderr
    assert b"Kafka has acknowledged 1 record of earlier lines" in piped.stderr
    assert produced(deployment, users) == 1


def produced(deployment: Deployment, topic: str) -> int:
    return sum(map(len, read_log(KafkaAccess(deployment.urls.kafka_bootstrap_servers), [topic]).values()))


def test_a_record_that_kafka_refuses_is_reported(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    users = "users" + deployment.topic_suffix
    text = f"{line('ann', 1)}\n{line('bob', 'x' * 2_000_000)}\n"
    done = sluice(deployment, "send", "-", "--topic", users, "--no-check", given=text.encode())
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"Kafka did not accept every record" in done.stderr
    assert b"Traceback" not in done.stderr
    assert f"{produced(deployment, users)} were acknowledged" in done.stderr.decode()


@pytest.mark.own("postgres")
@pytest.mark.parametrize(
    ("name", "url"),
    [
        pytest.param(
            "SLUICE_DATABASE_URL",
            f"postgresql+psycopg2://me@{DEAD}/none",
            marks=pytest.mark.all_rights("no role can be made on an absent server"),
        ),
        ("SLUICE_REDIS_URL", f"redis://{DEAD}/0"),
        pytest.param("SLUICE_KAFKA_BOOTSTRAP_SERVERS", DEAD, marks=pytest.mark.matrix),
    ],
)
def test_status_and_doctor_show_the_other_services_when_one_is_unreachable(
    make_deployment: MakeDeployment, name: str, url: str
) -> None:
    deployment = make_deployment()
    users = "users" + deployment.topic_suffix
    assert sluice(deployment, "send", "-", given=generated("users", count=5, topic=users)).returncode == 0
    status = sluice(deployment, "status", "--json", environ={name: url})
    said = document(status)
    assert status.returncode == 1
    [sentence] = said["unreachable"]
    assert name in sentence
    [warned] = status.stderr.decode().splitlines()
    assert sentence in warned
    [topic] = [topic for topic in said["topics"] if topic["topic"] == users]
    assert topic["log_end"] == (None if "KAFKA" in name else 5)
    assert (topic["counters"] is None) == ("DATABASE" in name)
    # Without Postgres, `status` does not know the prefix of the Redis lists.
    assert {queue["length"] for queue in said["queues"]} == ({0} if "KAFKA" in name else {None})
    assert sluice(deployment, "status", environ={name: url}).returncode == 1

    doctor = sluice(deployment, "doctor", "--json", environ={name: url})
    problems = [one for one in document(doctor)["findings"] if one["severity"] == "error"]
    assert doctor.returncode == 1
    assert len(problems) == 1
    assert name in problems[0]["advice"]
