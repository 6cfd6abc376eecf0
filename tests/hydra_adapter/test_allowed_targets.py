"""A whitelist of targets, as Hydra 1.4 has it, holds for all of a config; and whoever meets it reads what to do."""

from collections.abc import Callable
from typing import Any

import hydra.utils
import pytest
from hydra.errors import HydraException

from sweepstack.config.schema import TrialConfig
from sweepstack.errors import ConfigError
from sweepstack.hydra_adapter import private
from sweepstack.hydra_adapter.allowed_targets import check_allowed
from sweepstack.hydra_adapter.error_messages import explain

NESTED = {
    "model": {"_target_": "mine.Net", "layer": {"_target_": "hydra.utils.get_class", "path": "yours.Layer"}},
    "trainer": {"_target_": "mine.train"},
}


def test_the_whitelist_is_that_of_hydra() -> None:
    assert private.execution_whitelist() is None
    if hasattr(hydra.utils, "execution_whitelist"):  # since Hydra 1.4
        with hydra.utils.execution_whitelist(["mine.*", "torch.optim.SGD"]):
            assert private.execution_whitelist() == ("mine.*", "torch.optim.SGD")


@pytest.mark.parametrize(
    ("allowed", "refused"),
    [
        (None, None),
        (["mine.*", "torch.optim.SGD", "hydra.utils.*", "yours.Layer"], None),
        (["mine.*", "torch.optim.SGD", "hydra.utils.*"], "yours.Layer"),
        (["mine.Net", "torch.optim.SGD", "hydra.utils.*", "yours.*"], "mine.train"),
        (["mine", "min.*", "torch.optim.*"], "mine.Net"),
        ([], "mine.Net"),
    ],
)
def test_every_target_of_a_config_must_be_on_it(
    digits_config: Callable[..., TrialConfig],
    monkeypatch: pytest.MonkeyPatch,
    allowed: list[str] | None,
    refused: str | None,
) -> None:
    monkeypatch.setattr(private, "execution_whitelist", lambda: allowed)
    check_allowed(digits_config({"optimizer._target_": "sweepstack.Mine", "model._target_": "sweepstack.Net"}))
    if refused is None:
        check_allowed(digits_config(NESTED))
        return
    with pytest.raises(ConfigError) as caught:
        check_allowed(digits_config(NESTED))
    assert str(caught.value) == (
        "every _target_ must be on the execution whitelist of hydra.main, which holds "
        f"{', '.join(allowed or []) or 'nothing'}, got '{refused}'; if you trust it, allow it in train.py: "
        f"@hydra.main(..., execution_whitelist=['sweepstack.*', '{refused}'])"
    )


@pytest.mark.parametrize("why", ["blacklisted", "not in the Hydra execution whitelist"])
def test_what_hydra_refuses_in_its_own_sections_is_told_with_the_same_remedy(why: str) -> None:
    error: Any = HydraException(f"Target 'os.remove' is {why}. Pass _execution_whitelist_\nfrom trusted code.")
    assert explain(error) == (
        f"Hydra refuses to make os.remove from a config ({why}); if you trust it, allow it in train.py: "
        "@hydra.main(..., execution_whitelist=['sweepstack.*', 'os.remove'])"
    )
