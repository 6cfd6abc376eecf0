"""A stack that a pruner will make narrow is cut for several workers only into wide parts."""

from pathlib import Path

import pytest

from sweepstack.execution.engines import choose

from .. import here


@pytest.mark.parametrize(
    ("number", "pruner", "stacks"), [(8, "none", 2), (8, "halving", 1), (31, "halving", 1), (32, "halving", 2)]
)
def test_into_how_many_stacks_it_is_cut_where_workers_side_by_side_pay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, pruner: str, stacks: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choose, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(choose, "PAYS_BELOW", 1e9)
    rates = ",".join(f"{0.01 * (1 + one):g}" for one in range(number))
    words = ("dataset=digits", "epochs=9", "launch.stack=force", f"pruner={pruner}", "engine.workers=2")
    done = here.train("-m", *words, f"optimizer.lr={rates}", "launch.dry_run=true")
    assert done.code == 0, done.err
    assert f"{number} trials -> {number} trajectories -> {stacks} stack{'s' if stacks > 1 else ''}\n" in done.out
