"""What the model server makes of tensors, without a server."""

from __future__ import annotations

import pytest
from adin.errors import ConfigError

pytestmark = [pytest.mark.ml, pytest.mark.flow(12), pytest.mark.filterwarnings("ignore")]


def test_a_tensor_of_text_that_is_no_text_is_the_users_mistake() -> None:
    from adin.serving.server import _plain

    assert _plain("Zürich".encode()) == "Zürich"
    with pytest.raises(ConfigError, match="UTF-8"):
        _plain(b"\xff")
