"""Asks a function of the user for the password of the next connect, for example a short-lived token."""

from importlib import import_module

PROVIDER_SETTING = "SLUICE_DATABASE_PASSWORD_PROVIDER"
PROVIDER_PATTERN = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"


class ProviderRefused(ValueError):
    """Raised if the provider is no function that returns a password. A later connect would fail, too."""


class ProviderFailed(OSError):
    """Raised if the provider raised an error. A later connect may succeed."""


def ask_password(provider: str) -> str:
    """Returns the password from `module:function`, which is called without arguments.

    Raises ProviderRefused and ProviderFailed. Their messages contain no text of the provider, because such a
    text may contain a secret.
    """
    module, _, name = provider.partition(":")
    try:
        function = getattr(import_module(module), name, None)
    except Exception as error:
        raise ProviderRefused(f"{module} cannot be imported ({type(error).__name__})") from None
    if not callable(function):
        raise ProviderRefused(f"module {module} has no function {name}")
    try:
        password = function()
    except Exception as error:
        raise ProviderFailed(f"{provider} raised {type(error).__name__}") from None
    if not isinstance(password, str) or not password:
        raise ProviderRefused(f"{provider} returned no password as str")
    return password
