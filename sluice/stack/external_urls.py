"""Reads the addresses of the three services from the environment."""

from collections.abc import Mapping

from sluice.runtime.service_urls import DATABASE_URL, KAFKA_BOOTSTRAP_SERVERS, REDIS_URL, StackUrls
from sluice.stack.service import StackError


def external_urls(environ: Mapping[str, str]) -> StackUrls | None:
    """Returns the services that the environment names; None if it names none, so that a stack is needed.

    Raises StackError if it names only some of them, which is a mistake.
    """
    names = (DATABASE_URL, REDIS_URL, KAFKA_BOOTSTRAP_SERVERS)
    missing = [name for name in names if not environ.get(name)]
    if len(missing) == len(names):
        return None
    if missing:
        given = [name for name in names if name not in missing]
        raise StackError(
            f"{' and '.join(given)} set, but not {' and '.join(missing)}: set all three to use your own "
            "services, or none to use the local stack"
        )
    return StackUrls(environ[DATABASE_URL], environ[REDIS_URL], environ[KAFKA_BOOTSTRAP_SERVERS])
