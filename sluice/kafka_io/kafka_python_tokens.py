"""The tokens of OAUTHBEARER for kafka-python."""

from kafka.net.sasl.oauth import AbstractTokenProvider

from sluice.kafka_io.tokens import RenewedTokens, Tokens


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """Returns the token for a new connection. The client calls it for each connection."""

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        self._tokens = RenewedTokens(tokens)

    def token(self) -> str:
        """Returns the token."""
        return self._tokens().value
