from pathlib import Path
from typing import cast

import pytest

from hortus.client.agent import SiteAgent
from hortus.client.agent_service import listening
from hortus.protocol.errors import UsageError


def test_a_folder_too_deep_for_a_socket_is_refused_with_a_remedy(tmp_path: Path) -> None:
    nobody = cast("SiteAgent", None)  # is never asked
    with (
        pytest.raises(UsageError, match=r"107 bytes .* shorter path"),
        listening(nobody, tmp_path / ("a" * 100)),
    ):
        pass
