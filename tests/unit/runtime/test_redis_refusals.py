"""If Redis refuses commands, one line per minute is logged: with the memory of Redis, without the command."""

from typing import Any

import pytest
import redis
import structlog

from sluice.runtime.redis_refusals import RefusedCommands, describe_refusal

MIB = 1024 * 1024


class Client:
    def __init__(self, used: int = 0, limit: int = 0, error: Exception | None = None) -> None:
        self._memory, self._error = {"used_memory": used, "maxmemory": limit}, error

    def info(self, section: str) -> dict[str, Any]:
        if self._error is not None:
            raise self._error
        return {"memory": self._memory}[section]


FULL = redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
SCRIPT = redis.ResponseError(
    "Error running script (call to f_1): @user_script:2:"
    " -OOM command not allowed when used memory > 'maxmemory'."
)


@pytest.mark.parametrize("error", [FULL, SCRIPT])
def test_a_full_redis_is_reported_with_its_memory(error: redis.ResponseError) -> None:
    assert describe_refusal(error, Client(96 * MIB, 100 * MIB)) == "Redis is full: 96 of 100 MiB"


@pytest.mark.parametrize("error", [redis.ConnectionError("gone"), redis.ResponseError("NOPERM")])
def test_if_a_full_redis_does_not_report_its_memory_the_line_omits_the_memory(error: Exception) -> None:
    assert describe_refusal(FULL, Client(error=error)) == "Redis is full"


def test_another_refusal_is_reported_without_its_command() -> None:
    error = redis.ResponseError(
        "Command # 2 (HSET k t secret) of pipeline caused error: NOREPLICAS Not enough"
    )
    assert describe_refusal(error, Client()) == "Redis refuses a command: NOREPLICAS Not enough"


def test_each_kind_of_refusal_is_logged_at_most_one_time_per_minute() -> None:
    now = 0.0
    refused = RefusedCommands(clock=lambda: now)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            for error in (FULL, SCRIPT, redis.ReadOnlyError("a replica")):
                with refused.tolerated(lambda: Client(MIB, MIB)):
                    raise error
        now = 59.0
        refused.note(FULL, lambda: Client(MIB, MIB))
        assert [line["event"] for line in logs] == [
            "Redis is full: 1 of 1 MiB",
            "Redis refuses a command: a replica",
        ]
        now = 60.0
        refused.note(FULL, lambda: Client(MIB, MIB))
    assert len(logs) == 3


def test_an_outage_is_not_tolerated() -> None:
    with pytest.raises(redis.ConnectionError), RefusedCommands().tolerated(Client):
        raise redis.ConnectionError
