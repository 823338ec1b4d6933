from pathlib import Path
from typing import cast

import pytest

from hortus.client.agent import SiteAgent
from hortus.client.agent_service import listening


@pytest.mark.parametrize("name", ["run", "a" * 100])
def test_the_socket_is_private_however_long_the_folders_path(tmp_path: Path, name: str) -> None:
    nobody = cast("SiteAgent", None)  # is never asked
    with listening(nobody, tmp_path / name) as socket:
        assert socket.is_socket()
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        assert (socket.parent == tmp_path / name) == (name == "run")
    assert not socket.exists()
