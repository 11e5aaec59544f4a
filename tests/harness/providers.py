"""The payment provider and the mail server for tests and the demo, with their faults and journals."""

from pathlib import Path
from types import TracebackType

import msgspec

from examples.shop.effects.addresses import MAIL_LOG_URL, PROVIDER_URL, SMTP_URL
from examples.shop.mail.messages import Message
from examples.shop.provider.lines import Capture, Line, Request
from sluice.testing.servers.processes import Start, start_new
from tests.harness.provider_process import ProviderProcess


class PaymentProvider(ProviderProcess):
    """`examples.shop.provider`."""

    def __init__(
        self, folder: Path, *, key_lifetime_seconds: float = 86_400, start: Start = start_new
    ) -> None:
        super().__init__(
            "examples.shop.provider",
            folder,
            ["--key-lifetime-seconds", str(key_lifetime_seconds)],
            start=start,
        )

    def forget_keys(self) -> None:
        """Deletes all idempotency keys immediately."""
        self.control("DELETE", "/keys")

    def captures(self) -> list[Capture]:
        """Returns the captures in the provider's journal. Works even while the provider does not run."""
        return [line for line in self._lines() if isinstance(line, Capture)]

    def requests(self) -> list[Request]:
        """Returns every capture request with its answer, in the order of the answers."""
        return [line for line in self._lines() if isinstance(line, Request)]

    def _lines(self) -> list[Line]:
        return [msgspec.json.decode(line, type=Line) for line in _whole_lines(self.journal)]


class MailServer(ProviderProcess):
    """`examples.shop.mail`."""

    def __init__(self, folder: Path, *, start: Start = start_new) -> None:
        super().__init__("examples.shop.mail", folder, start=start)

    @property
    def control_url(self) -> str:
        """The base URL of `/faults` and `/messages`."""
        return f"http://127.0.0.1:{self.port('control_port')}"

    def messages(self) -> list[Message]:
        """Returns the messages in the server's journal. Works even while the server does not run."""
        return [msgspec.json.decode(line, type=Message) for line in _whole_lines(self.journal)]


class Providers:
    """Both servers. They run as long as the `with` block."""

    def __init__(
        self, folder: Path, *, key_lifetime_seconds: float = 86_400, start: Start = start_new
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.payments = PaymentProvider(folder, key_lifetime_seconds=key_lifetime_seconds, start=start)
        self.mail = MailServer(folder, start=start)

    def __enter__(self) -> "Providers":
        try:
            self.payments.start()
            self.mail.start()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Ends both servers."""
        self.payments.end()
        self.mail.end()

    def environ(self) -> dict[str, str]:
        """Returns the environment variables that the processes that make calls need."""
        return {
            PROVIDER_URL: self.payments.control_url,
            SMTP_URL: f"smtp://127.0.0.1:{self.mail.port()}",
            MAIL_LOG_URL: self.mail.control_url,
        }


def _whole_lines(path: Path) -> list[bytes]:
    # The server may be writing the last line.
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1].splitlines()
