"""The one question asked after each fault."""

from ops.trial.deployment import Deployment


def assert_as_the_oracle_says(deployment: Deployment) -> None:
    """Tables equal the oracle's fold of the log; outcomes equal its outcomes, and add up to the records."""
    complaints = deployment.complaints(deployment.tables())
    assert not complaints, "\n".join(complaints[:20])
