"""MLflow's UI answers under whatever name and port a browser calls this machine, and under no other name."""

import pytest

from sweepstack.tracking.ui.server import ALLOWED_HOSTS


@pytest.mark.parametrize(
    ("host", "is_answered"),
    [
        ("127.0.0.1", True),  # as a browser calls port 80
        ("localhost", True),
        ("127.0.0.1:5000", True),
        ("localhost:8080", True),
        ("example.org", False),
        ("example.org:5000", False),
        ("127.0.0.1.example.org", False),
        ("localhost.example.org:80", False),
    ],
)
def test_port_80_is_answered_too_and_strangers_are_not(host: str, is_answered: bool) -> None:
    from mlflow.server.security_utils import is_allowed_host_header

    assert is_allowed_host_header(ALLOWED_HOSTS.split(","), host) is is_answered
