"""Wake-ups of the relay do not accumulate while no relay runs, and no wake-up is lost."""

from uuid import UUID

from sluice.db.delivery.installation import Key
from sluice.runtime.celery_options import RELAY_QUEUE
from sluice.runtime.installation import Installation
from sluice.runtime.redis_client import build_redis
from sluice.tasks.installation.keyring import KeyRing, Signing
from sluice.tasks.outbox.relay_wakeup import WAKEUP_KEY, RelayWakeup
from sluice.tasks.task_sender import TaskSender

INSTALLATION = Installation("wakeups", UUID(int=1))


def test_a_second_wake_up_is_sent_only_after_a_worker_has_taken_the_first(redis_url: str) -> None:
    ring = KeyRing(INSTALLATION, lambda: Signing((Key(1, bytes(32)),), None))
    with build_redis(redis_url, INSTALLATION.redis_prefix) as redis:
        wakeup = RelayWakeup(TaskSender(redis, ring))
        for _ in range(5):
            wakeup.notify()
            redis.delete(WAKEUP_KEY)  # Redis does this after one second.
        assert redis.llen(RELAY_QUEUE) == 1
        assert redis.rpop(RELAY_QUEUE)
        wakeup.notify()
        assert redis.llen(RELAY_QUEUE) == 1
        redis.delete(WAKEUP_KEY, RELAY_QUEUE)
