import pytest

pytest.register_assert_rewrite("sweepstack.execution.engines.conformance")  # before a test imports it
