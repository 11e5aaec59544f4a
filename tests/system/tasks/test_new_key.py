"""A new signing key replaces the old key while events are applied, and no event is lost."""

import pytest

from sluice.db.delivery.installation import read_keys
from tests.harness.storm import mixed_events
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import SteadyLoad, assert_equals_the_oracle

EVENTS_PER_SECOND = 200


@pytest.mark.matrix
def test_a_new_key_loses_no_event_and_ends_the_old_key(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    run = deployment.run
    run.start_bridge()
    run.start_worker(name="sharing")
    run.start_relay()
    run.start_beat()
    load = SteadyLoad(
        deployment, lambda count, sent: mixed_events(max(count, 10), seed=sent), rate=EVENTS_PER_SECOND
    )
    with load:
        load.wait_more(2)
        for number in (2, 3):
            run.run_sluice("init", "--new-key", "--yes", "--reason", "an operator left")

            def only_newest(number: int = number) -> bool:
                return [key.number for key in read_keys(deployment.session)] == [number]

            deployment.wait_until(only_newest, timeout_seconds=60, what=f"only key {number} is left")
            load.wait_more(1)
    # Now the running processes and a new worker all use the newest key.
    run.start_worker(name="later")
    deployment.wait_settled(timeout_seconds=120)
    deployment.wait_sent()
    assert_equals_the_oracle(deployment)
    assert [process.exit_code for process in run.processes] == [None] * len(run.processes)
