"""Every name in the configuration of the Celery application refers to an existing class or task."""

from importlib import import_module

import pytest
from kombu.utils.imports import symbol_by_name

from sluice.runtime import app, celery_options
from sluice.worker.schedule import SCHEDULE

NAMES = (*app.WORKER_STEPS, *app.CONSUMER_STEPS, app.CONSUMER, app.SCHEDULER, app.QUEUE_ORDER)
TASK_NAMES = {value for name, value in vars(celery_options).items() if name.endswith("_TASK")}


@pytest.mark.parametrize("name", NAMES)
def test_each_configured_name_refers_to_a_class(name: str) -> None:
    assert isinstance(symbol_by_name(name), type)  # type: ignore[no-untyped-call]


def test_every_task_name_is_registered_and_the_schedule_uses_no_other_task() -> None:
    from celery import Celery

    import_module(app.STARTUP)
    import_module(app.TASKS)
    made = Celery("test")
    made.finalize()
    assert {name for name in made.tasks if name.startswith("sluice.")} == TASK_NAMES
    assert {one.task for one in SCHEDULE} <= TASK_NAMES
