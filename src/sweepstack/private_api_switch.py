"""The switch for what relies on private parts of Hydra and MLflow (`hydra_adapter/private`, `tracking/private`)."""

import os

NO_TRICKS = "SWEEPSTACK_NO_TRICKS"
"""The environment variable with which the tests take the public way wherever there is one (`make test-public`)."""


def tricks() -> bool:
    """Whether private parts may be used where there is a public way, too."""
    return not os.environ.get(NO_TRICKS)
