"""Helpers for a rebuild on real services: a wrong tax is corrected while readers query the view."""

import json
import sys
from collections.abc import Iterator
from typing import Any

from examples.shop.before_the_fix import WRONG_TAX_PERCENT
from examples.shop.generate import OutgoingRecord
from examples.shop.handlers.billing import TAX_PERCENT, line_item
from examples.shop.handlers.payments import PaymentReceived
from examples.shop.tables import billing_line_items
from sluice.db.apply.rows import RowStatements, read_all_rows
from sluice.db.projections.generations import read_generations
from sluice.db.tables import generation_name
from sluice.tasks.fold.registry import collect_handlers
from sluice.testing.servers.deployment import Deployment
from tests.harness.readers import Readers
from tests.system.conftest import MakeDeployment

PROJECTION = billing_line_items.name


def payment(number: int) -> OutgoingRecord:
    """Returns the payment event with this number."""
    data = {"account_id": f"acc-{number % 50}", "amount_cents": 100 + number * 37 % 90_000}
    event = {"event_id": f"p-{number}", "type": "payment.received", "data": data}
    return OutgoingRecord("payments", f"pay-{number}", event)


def payments(start: int, count: int) -> Iterator[OutgoingRecord]:
    """Returns `count` payments, numbered from `start`."""
    return map(payment, range(start, start + count))


def expected_line(number: int, tax_percent: int) -> dict[str, Any]:
    """Returns the row that a payment must have with this tax."""
    data = payment(number).value
    assert data is not None
    return dict(line_item(PaymentReceived(**data["data"]), tax_percent))


def wrong_line(number: int) -> dict[str, Any]:
    """Returns the row of a payment with the wrong tax."""
    return expected_line(number, WRONG_TAX_PERCENT)


def right_line(number: int) -> dict[str, Any]:
    """Returns the row of a payment with the right tax."""
    return expected_line(number, TAX_PERCENT)


def deploy_wrong(make_deployment: MakeDeployment, **more: Any) -> Deployment:
    """Makes a deployment of the shop with the wrong tax."""
    return make_deployment("examples.shop.before_the_fix", **more)


def deploy_fix(deployment: Deployment) -> None:
    """Makes later processes start with the corrected handlers, on the same topics."""
    before = deployment.run.handlers
    after = f"{before}_fixed"
    folder = deployment.run.folder
    text = (
        (folder / f"{before}.py")
        .read_text()
        .replace("examples.shop.before_the_fix", "examples.shop.handlers")
    )
    (folder / f"{after}.py").write_text(text)
    deployment.run.handlers = after
    deployment.registry = collect_handlers(after)
    sys.modules.pop(after, None)


def sluice(deployment: Deployment, *words: str) -> Any:
    """Runs `sluice rebuild … --json`. Returns the JSON document."""
    return json.loads(deployment.run.run_sluice("rebuild", *words, "--json"))


def sluice_fails(deployment: Deployment, *words: str, faults: str = "") -> tuple[int, str]:
    """Runs `sluice rebuild …`. Asserts that the command fails. Returns its exit code and error message."""
    done = deployment.run.sluice("rebuild", *words, faults=faults)
    assert done.returncode != 0, done.stdout
    return done.returncode, done.stderr.decode()


def wait_ready(deployment: Deployment, generation: int, *, timeout_seconds: float = 60) -> None:
    """Waits until the generation has caught up with the live generation."""

    def ready() -> bool:
        found = {one.generation: one for one in read_generations(deployment.session, PROJECTION)}
        assert found[generation].state != "failed", found[generation].failed_reason
        return found[generation].state == "ready"

    deployment.wait_until(ready, timeout_seconds=timeout_seconds, what=f"generation {generation} is ready")


def readers(deployment: Deployment, old_lines: int) -> Readers:
    """Returns readers of the view. They require that the oldest lines are either all wrong or all right."""
    keys = ", ".join(f"'pay-{n}'" for n in range(old_lines))
    return Readers(
        deployment.urls.database_url,
        f"SELECT payment_id, tax_cents FROM public.{PROJECTION} WHERE payment_id IN ({keys})",
        {
            "wrong": {f"pay-{n}": wrong_line(n)["tax_cents"] for n in range(old_lines)},
            "right": {f"pay-{n}": right_line(n)["tax_cents"] for n in range(old_lines)},
        },
    )


def lines_of(deployment: Deployment, generation: int) -> dict[str, dict[str, object]]:
    """Returns the rows of a generation's table."""
    statements = RowStatements(billing_line_items, generation_name(PROJECTION, generation))
    return dict(read_all_rows(deployment.session, statements))


def start_live(deployment: Deployment) -> None:
    """Starts a bridge, two workers, a relay and a beat."""
    deployment.run.start_bridge()
    queues = deployment.queues()
    deployment.run.start_worker(queues[::2])
    deployment.run.start_worker(queues[1::2])
    deployment.run.start_relay()
    deployment.run.start_beat()


def with_old_lines(make_deployment: MakeDeployment, count: int) -> Deployment:
    """Makes a deployment with `count` lines that have the wrong tax. Restarts it with the corrected code."""
    deployment = deploy_wrong(make_deployment)
    start_live(deployment)
    deployment.produce(payments(0, count))
    deployment.wait_settled(timeout_seconds=60 + count / 1_000)
    deployment.run.stop_all()
    deploy_fix(deployment)
    start_live(deployment)
    return deployment
