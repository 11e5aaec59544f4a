"""Scenario 5: a projection with wrong rows is rebuilt, without repeated side effects."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from examples.shop import tables
from examples.shop.before_the_fix import WRONG_TAX_PERCENT
from examples.shop.generate import OutgoingRecord, generate
from examples.shop.handlers.billing import TAX_PERCENT, line_item
from examples.shop.handlers.payments import PaymentReceived
from sluice.db.admin.totals import read_effect_keys
from sluice.db.projections.generations import read_generations
from sluice.tasks.fold.registry import collect_handlers
from sluice.testing.servers.deployment import Deployment
from tests.demo.report import Check, count
from tests.demo.stage import FAULT_DEADLINE_SECONDS, Stage
from tests.harness.providers import Providers
from tests.harness.readers import Readers

FIXED = "examples.shop.handlers"
NAME = tables.billing_line_items.name
LATER = 2_000  # payments that arrive during the rebuild
READ = 100  # lines that a reader reads during the whole rebuild
WHY = ("--reason", "the tax was wrong")
ROWS = count("row")


def play_5(stage: Stage) -> Iterator[Check]:
    """Deploys corrected code, rebuilds a projection while payments arrive, and swaps generations."""
    deployment, providers = stage.deployment, stage.providers
    stage.do("Corrected code is deployed. New lines have the right tax; old lines keep the wrong tax.")
    deployment.run.stop_all()
    deployment.run.handlers, deployment.registry = FIXED, collect_handlers(FIXED)
    _start(deployment)
    left = _left(deployment, providers)
    old = list(generate("payments", count=stage.sizes.payments, seed=1))
    changed = sum(_line(payment, WRONG_TAX_PERCENT) != _line(payment, TAX_PERCENT) for payment in old)
    readers = _readers(deployment, old[:READ])
    with readers:
        stage.do("A rebuild worker is killed during the rebuild, while payments arrive.")
        doomed = deployment.run.start_rebuilds(name="rebuild-doomed", faults="rebuild.before_commit:12:kill")
        _rebuild(deployment, "start", "--no-wait", *WHY)
        deployment.produce(_later_payments())
        yield stage.wait_killed(doomed, "in the middle of a chunk")
        deployment.run.start_rebuilds()
        deployment.wait_until(
            lambda: _state(deployment, 2) == "ready",
            timeout_seconds=FAULT_DEADLINE_SECONDS,
            what="the new generation is ready: it has caught up with the live generation",
        )
        deployment.wait_settled()
        answer = _refused(deployment, "swap", "--yes", *WHY)
        is_refused = "never compared" in answer
        yield Check(
            "A swap before the comparison is refused.",
            True,
            is_refused,
            lambda _: "refused: never compared" if is_refused else f"not refused: {answer.strip()}",
        )
        rows = _rebuild(deployment, "diff")["rows"]
        yield Check("The comparison finds the rows with another tax: {}.", changed, rows["differing"], ROWS)
        alone = rows["only_live"] + rows["only_new"]
        yield Check("No row is in only one of the generations.", 0, alone, ROWS)
        stage.do(
            "The differences are approved. Three swaps show the new lines, the old lines, and again the new"
            " lines to readers."
        )
        _rebuild(deployment, "approve", "--yes", *WHY)
        for back in ((), ("--back",), ("--back",)):
            _rebuild(deployment, "swap", "--yes", *back, *WHY)
            deployment.wait_until(
                lambda: readers.seen[-1] == ("right" if _live(deployment) == 2 else "wrong"),
                timeout_seconds=FAULT_DEADLINE_SECONDS,
                what="the reader has read the lines of the live generation",
            )
    yield Check(
        f"In each of {readers.looks:,} reads, {READ} old lines have one tax, in this order: {{}}.",
        ["wrong", "right", "wrong", "right"],
        readers.seen,
        ", ".join,
    )
    lines = deployment.rows(tables.billing_line_items)
    everything = {p.key: _line(p, TAX_PERCENT) for p in [*old, *_later_payments()]}
    wrong = sum(lines.get(key) != line for key, line in everything.items())
    yield Check(
        "Every line has the right tax, including lines written during the rebuild.",
        True,
        lines == everything,
        lambda _: f"{count('line')(len(lines))}, {count('wrong line')(wrong)}",
    )
    yield Check(
        "The rebuild repeats no side effect and no event. There are still {}.",
        left,
        _left(deployment, providers),
        lambda found: f"{found[0]:,} captures, {found[1]:,} calls, {found[2]:,} events",
    )


def _readers(deployment: Deployment, sample: Sequence[OutgoingRecord]) -> Readers:
    keys = ", ".join(f"'{payment.key}'" for payment in sample)
    return Readers(
        deployment.urls.database_url,
        f"SELECT payment_id, tax_cents FROM public.{NAME} WHERE payment_id IN ({keys})",
        {
            "wrong": {p.key: _line(p, WRONG_TAX_PERCENT)["tax_cents"] for p in sample},
            "right": {p.key: _line(p, TAX_PERCENT)["tax_cents"] for p in sample},
        },
    )


def _start(deployment: Deployment) -> None:
    run = deployment.run
    run.start_bridge()
    run.start_worker(name="worker-1")
    run.start_worker(name="worker-2")
    run.start_relay(name="relay-1")
    run.start_beat(name="beat-1")


def _later_payments() -> list[OutgoingRecord]:
    later = generate("payments", count=LATER, seed=9)
    return [record._replace(key=f"later-{record.key}") for record in later]


def _line(payment: OutgoingRecord, percent: int) -> dict[str, Any]:
    assert payment.value is not None
    return dict(line_item(PaymentReceived(**payment.value["data"]), percent))


def _left(deployment: Deployment, providers: Providers) -> tuple[int, int, int]:
    """Returns the numbers of captures at the provider, calls in the ledger, and outgoing events in Kafka."""
    return (
        len(providers.payments.captures()),
        len(read_effect_keys(deployment.session)),
        len(deployment.sent()),
    )


def _rebuild(deployment: Deployment, verb: str, *words: str) -> Any:
    return json.loads(deployment.run.run_sluice("rebuild", verb, NAME, "--json", *words))


def _refused(deployment: Deployment, verb: str, *words: str) -> str:
    try:
        deployment.run.run_sluice("rebuild", verb, NAME, *words)
    except subprocess.CalledProcessError as error:
        return str(error.stderr)
    return "done"


def _state(deployment: Deployment, number: int) -> str | None:
    found = {one.generation: one.state for one in read_generations(deployment.session, NAME)}
    return found.get(number)


def _live(deployment: Deployment) -> int:
    return next(one.generation for one in read_generations(deployment.session, NAME) if one.state == "live")
