"""`sluice doctor` on real services."""

import pytest

from examples.shop.generate import generate
from tests.system.cli.test_cli import document, errors, sluice
from tests.system.conftest import MakeDeployment
from tests.system.serving import start_beside

pytestmark = pytest.mark.own("postgres")


def test_doctor_finds_no_problem_and_then_each_caused_problem(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues())
    start_beside(deployment)
    users = "users" + deployment.topic_suffix
    deployment.produce(generate("users", count=20, seed=1))
    deployment.wait_settled()
    healthy = document(sluice(deployment, "doctor", "--json"))
    assert healthy["findings"] == []
    assert healthy["topics"][users]["partitions"] == 4

    session = deployment.session
    session.command(
        "INSERT INTO sluice.outbox_events (queue, id, event_id, topic, type, headers, payload) VALUES"
        " ('user.0', nextval('sluice.outbox_ids'), gen_random_uuid(), 'nowhere', 't', '{}', 'null')"
    )
    [found] = document(sluice(deployment, "doctor", "--json"))["findings"]
    assert "wait for topic nowhere, which does not exist: 1, the first is user.0 " in found["problem"]
    session.command("DELETE FROM sluice.outbox_events")

    session.command("ALTER TABLE public.users RENAME TO people")
    assert errors(deployment) == ["Table users is missing in schema public."]
    session.command("ALTER TABLE public.people RENAME TO users")

    session.command("ALTER TABLE public.users RENAME COLUMN name TO called")
    assert errors(deployment) == ["Table users lacks name."]
    session.command("ALTER TABLE public.users RENAME COLUMN called TO name")

    session.command("DELETE FROM sluice.queues WHERE queue = 'balance.2'")
    assert errors(deployment) == ["Queues without a row: balance.2."]
    session.command("ALTER TABLE public.users ALTER COLUMN name TYPE varchar(5) USING left(name, 5)")
    narrower = "a text of more than 5 characters would make its event a dead letter"
    assert [one for one in errors(deployment) if narrower in one]
    made = sluice(deployment, "init")
    assert made.returncode == 1, "init must report the narrow column"
    assert narrower in made.stdout.decode()
    session.command("ALTER TABLE public.users ALTER COLUMN name TYPE text")
    done = sluice(deployment, "init", "--json")
    assert (done.returncode, [one["severity"] for one in document(done)["findings"]]) == (0, ["warning"])
    assert errors(deployment) == []

    session.command(f"UPDATE sluice.topics SET topic_id = 'another' WHERE topic = '{users}'")
    [problem] = errors(deployment)
    assert f"{users} is not the topic" in problem
    assert "another" in problem


@pytest.mark.own("redis")
def test_doctor_finds_a_redis_that_evicts(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    policy = deployment.redis.config_get("maxmemory-policy")
    assert policy == {"maxmemory-policy": "noeviction"}
    deployment.redis.config_set("maxmemory-policy", "allkeys-lru")
    assert errors(deployment) == ["Redis evicts keys: its maxmemory-policy is allkeys-lru."]
    deployment.redis.config_set("maxmemory-policy", "noeviction")
    assert errors(deployment) == []


@pytest.mark.all_rights("the roles lose their rights with the schema")
def test_doctor_before_init_advises_to_run_init(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    deployment.session.command("DROP SCHEMA sluice CASCADE")
    assert errors(deployment) == ["Schema sluice of the database has none of Sluice's tables."]
    status = sluice(deployment, "status", "--json")
    assert status.returncode == 1
    assert "run `sluice init`" in document(status)["unreachable"][0]
    assert sluice(deployment, "init").returncode == 0
    assert errors(deployment) == []
