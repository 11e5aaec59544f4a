"""A session reads user and password from their files at each connect."""

from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from sluice.db.connect_failures import ConnectCause, ConnectFailed
from sluice.db.connection import Session, Statement
from sluice.runtime.settings import read_settings

WHO = Statement("who", "SELECT current_user::text")


def test_a_session_uses_a_changed_file_at_its_next_connect(database_url: str, tmp_path: Path) -> None:
    url, file = make_url(database_url), tmp_path / "url"
    file.write_text(f"{database_url}\n")
    settings = read_settings(
        {
            "SLUICE_DATABASE_URL_FILE": str(file),
            "SLUICE_DATABASE_PASSWORD": "p@ss/word",
            "SLUICE_REDIS_URL": "redis://nowhere",
            "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "nowhere:1",
        }
    )
    with closing(Session(settings.database_url.get_secret_value(), application_name="test")) as session:
        assert session.run(WHO) == [(url.username,)]
        session.command("CREATE ROLE rotated LOGIN")
        try:
            file.write_text(url.set(username="rotated").render_as_string(hide_password=False))
            assert session.run(WHO) == [(url.username,)], "an open connection is kept"
            session.close()
            assert session.run(WHO) == [("rotated",)]
            session.close()
            file.unlink()
            with pytest.raises(ConnectFailed, match="cannot read the file") as away:
                session.run(WHO)
            assert away.value.cause is ConnectCause.AWAY
        finally:
            file.write_text(database_url)
            session.close()
            session.command("DROP ROLE rotated")
            session.close()
