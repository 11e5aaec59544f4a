"""Errors of a real Redis. Only the error for a permanent refusal contains advice."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis as client_library
from redis import Redis

from sluice.runtime.redis_client import build_redis
from sluice.runtime.redis_failures import describe_failure, find_advice
from sluice.stack import Stack

SECRET = "not-to-be-shown"


@pytest.fixture
def server(redis: Stack) -> Iterator[str]:
    """Yields the address of a Redis that requires a password. The user `limited` may only PING."""
    with Redis.from_url(redis.redis_url()) as admin:
        admin.acl_setuser("limited", enabled=True, passwords=["+right"], commands=["+ping"])
        admin.config_set("requirepass", "right")
        yield redis.redis_url().removeprefix("redis://")
        admin.config_set("requirepass", "")


@pytest.mark.own("redis")
def test_a_permanent_refusal_of_redis_is_reported_in_one_sentence(server: str) -> None:
    refused = {
        f"redis://{server}": "the user or the password",
        f"redis://:{SECRET}@{server}": "the user or the password",
        f"redis://nobody:{SECRET}@{server}": "the user or the password",
        f"redis://limited:right@{server}": "ACL SETUSER",
        f"redis://:right@{server.partition('/')[0]}/9999": "number of the database",
    }
    for url, advice in refused.items():
        error = _error_of(url)
        text = describe_failure(error, url)
        assert advice in text, (url, repr(error))
        assert text.startswith(f"cannot use {server.partition('/')[0]}/")
        assert SECRET not in text
        assert "\n" not in text


@pytest.mark.own("redis")
def test_a_password_that_redis_does_not_require_is_refused(redis: Stack) -> None:
    url = redis.redis_url().replace("redis://", f"redis://nobody:{SECRET}@")
    assert "the user or the password" in describe_failure(_error_of(url), url)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "redis://no-such-host.invalid:6379/0"])
def test_the_error_for_an_unreachable_redis_contains_no_advice(url: str) -> None:
    error = _error_of(url)
    assert find_advice(error) is None
    assert describe_failure(error, url).startswith(f"cannot use {url.removeprefix('redis://')}: ")


def _error_of(url: str, **options: Any) -> Exception:
    with build_redis(url, "test:", **options) as made, pytest.raises(client_library.RedisError) as caught:
        made.hscan("claims")
    return caught.value
