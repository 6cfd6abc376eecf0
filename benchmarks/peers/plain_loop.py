"""Our own plain trainer in a loop over the grid: one process, one trial after the other, nothing shared.

No peer, but the yardstick between peers and ours. `python train.py -m ... launch.stack=false` is not that: it stacks
nothing, but still reads epochs=5,10,20 from one trajectory, 180 epochs instead of 315.

- Idiom: `sweepstack.training.trainer.train` for each config, data in memory, threads as ours chooses them.
- Records: nothing, neither MLflow nor checkpoints.
- Differs from ours: all 315 epochs are trained, nothing is stacked.
"""

from __future__ import annotations

import task
import torch

from sweepstack.config import TrialConfig
from sweepstack.training.data import load
from sweepstack.training.hardware import choose_threads
from sweepstack.training.trainer import train

IMAGE = {"shape": [1, 28, 28], "classes": 10}
CONFIG = {
    "dataset": {"_target_": "sweepstack.training.data.mnist", **IMAGE, "mean": task.MEAN, "std": task.STD},
    "model": {"_target_": "sweepstack.training.models.Logistic", **IMAGE},
    "schedule": {"kind": "constant"},
    "validation_split": 0.1,
}


def main() -> None:
    trials = []
    for point in task.points(task.grid()):
        keys = {"batch_size": point["batch_size"], "epochs": point["epochs"]}
        optimizer = {"_target_": "torch.optim.SGD", "lr": point["lr"]}
        config = TrialConfig.model_validate({**CONFIG, **keys, "optimizer": optimizer})
        torch.set_num_threads(choose_threads(config))
        data = load(config.dataset, config.validation_split, torch.device("cpu"))  # read once, then kept
        figures = train(config, data, lambda _: None).metrics
        trials.append({**point, "val_accuracy": figures["val/accuracy"], "test_accuracy": figures["test/accuracy"]})
    task.finish(trials)


if __name__ == "__main__":
    main()
