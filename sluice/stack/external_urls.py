"""Reads the addresses of the three services from the environment."""

from collections.abc import Mapping
from types import MappingProxyType

from sluice.runtime.service_urls import DATABASE_URL, KAFKA_BOOTSTRAP_SERVERS, REDIS_URL, StackUrls
from sluice.runtime.settings import read_kafka_security
from sluice.stack.service import StackError

NAMES = (DATABASE_URL, REDIS_URL, KAFKA_BOOTSTRAP_SERVERS)
UNSET_HINT = f"to use the local stack: unset {' '.join(NAMES)}"


def external_urls(
    environ: Mapping[str, str], own: Mapping[str, str] = MappingProxyType({})
) -> StackUrls | None:
    """Returns the services that the environment names; None if a stack is needed.

    `own`: the variables that `sluice stack up` printed for this stack. A terminal keeps them after the stack
    has stopped, so an environment that names only these services needs the stack as well.

    Raises StackError if the environment names only some services, and not those of the stack, and
    SettingsError.
    """
    named = {name: environ[name] for name in NAMES if environ.get(name)}
    if all(own.get(name) == url for name, url in named.items()):
        return None
    missing = [name for name in NAMES if name not in named]
    if missing:
        raise StackError(
            f"the environment sets {' and '.join(named)}, but not {' and '.join(missing)}: set all three to"
            f" use your own services; {UNSET_HINT}"
        )
    return StackUrls(
        named[DATABASE_URL], named[REDIS_URL], named[KAFKA_BOOTSTRAP_SERVERS], read_kafka_security(environ)
    )
