from pathlib import Path
from typing import cast

import pytest

from hortus.client.agent import SiteAgent
from hortus.client.agent_service import listening


@pytest.mark.parametrize("is_relative", [False, True])
@pytest.mark.parametrize("name", ["run", "a" * 100])
def test_the_socket_is_private_however_long_the_folders_path(
    tmp_path: Path, name: str, is_relative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = cast("SiteAgent", None)  # is never asked
    monkeypatch.chdir(tmp_path)
    with listening(nobody, Path(name) if is_relative else tmp_path / name) as socket:
        assert socket.is_absolute(), "the relay runs in another folder"
        assert socket.is_socket()
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        assert (socket.parent == tmp_path / name) == (name == "run")
    assert not socket.exists()
