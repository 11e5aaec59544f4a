"""The options of `sluice init` that need no server to be refused."""

import pytest
from typer.testing import CliRunner

from sluice.cli.main import app


@pytest.mark.parametrize("factor", ["0", "-2"])
def test_a_replication_factor_is_minus_one_or_positive(factor: str) -> None:
    done = CliRunner().invoke(app, ["init", "--replication-factor", factor])
    assert done.exit_code == 2
