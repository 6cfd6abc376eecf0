"""Lightning and Hydra in the way of lightning-hydra-template: one Hydra multirun, in one process.

- Idiom: all is instantiated from Hydra's config: the Trainer, a LightningModule with torchmetrics (mean loss and
  accuracy of training, validation and test, best validation accuracy), a LightningDataModule with torchvision's
  transforms and DataLoaders in the main process (num_workers=0, the template's default), ModelCheckpoint on the
  validation accuracy with the last one kept too; hyperparameters are logged. Hydra's basic launcher takes one trial
  after the other.
- Records: an MLflow run for each trial through MLFlowLogger (sqlite, as ours), metrics of every epoch, two checkpoints
  and Hydra's folder for each trial. Progress bars and the model's summary are off.
- Differs from the template: the weights of the last epoch are tested, not the best ones, so that all peers report the
  same thing; the optimizer is plain SGD without a scheduler; no early stopping; PyTorch's default threads.
- Differs from ours: images are decoded again every epoch, epochs=5,10,20 are three trainings, nothing is stacked, a
  repeated command trains everything again.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any

os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}

import hydra
import lightning as L
import task
import torch
from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics import MaxMetric, MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms
from torchvision.datasets import MNIST

CONFIG = {
    "seed": 0,
    "data": {"_target_": f"{__name__}.MNISTData", "batch_size": 100, "num_workers": 0},
    "model": {
        "_target_": f"{__name__}.Classifier",
        "net": {"_target_": "torch.nn.Linear", "in_features": 784, "out_features": 10},
        "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.01},
    },
    "callbacks": {
        "model_checkpoint": {
            "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
            "dirpath": "${hydra:runtime.output_dir}/checkpoints",
            "filename": "epoch_{epoch:03d}",
            "monitor": "val/acc",
            "mode": "max",
            "save_last": True,
            "auto_insert_metric_name": False,
        }
    },
    "logger": {
        "_target_": "lightning.pytorch.loggers.MLFlowLogger",
        "experiment_name": "lightning_hydra",
        "run_name": "lr=${model.optimizer.lr} bs=${data.batch_size} epochs=${trainer.max_epochs}",
        "tracking_uri": "${oc.env:MLFLOW_TRACKING_URI,sqlite:///mlflow.db}",
    },
    "trainer": {
        "_target_": "lightning.Trainer",
        "default_root_dir": "${hydra:runtime.output_dir}",
        "max_epochs": 5,
        "accelerator": "cpu",
        "devices": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
}
ConfigStore.instance().store("train", OmegaConf.create(CONFIG))
TRIALS: list[dict[str, Any]] = []
"""What this process has trained; Hydra's basic launcher keeps to one process."""


class MNISTData(L.LightningDataModule):
    def __init__(self, batch_size: int, num_workers: int) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(task.MEAN, task.STD)])
        self.parts: dict[str, Dataset[Any]] = {}

    def setup(self, stage: str | None = None) -> None:
        if self.parts:
            return
        images = MNIST(task.root(), train=True, transform=self.transform)
        train, held_out = task.split()
        self.parts["train"] = Subset(images, train.tolist())
        self.parts["val"] = Subset(images, held_out.tolist())
        self.parts["test"] = MNIST(task.root(), train=False, transform=self.transform)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader("test")

    def _loader(self, part: str, shuffle: bool = False) -> DataLoader[Any]:
        workers = self.hparams.num_workers
        return DataLoader(
            self.parts[part],
            self.hparams.batch_size,
            shuffle=shuffle,
            num_workers=workers,
            persistent_workers=bool(workers),
        )


class Classifier(L.LightningModule):
    def __init__(self, net: nn.Module, optimizer: Any) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["net"])
        self.net = net
        self.criterion = nn.CrossEntropyLoss()
        self.train_loss, self.val_loss, self.test_loss = MeanMetric(), MeanMetric(), MeanMetric()
        self.train_acc, self.val_acc, self.test_acc = (MulticlassAccuracy(10, average="micro") for _ in range(3))
        self.val_acc_best = MaxMetric()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1))

    def on_train_start(self) -> None:
        self.val_acc_best.reset()  # the sanity check before training is not to count

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._step("train", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step("val", batch)

    def on_validation_epoch_end(self) -> None:
        self.val_acc_best(self.val_acc.compute())
        self.log("val/acc_best", self.val_acc_best.compute())

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step("test", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.hparams.optimizer(params=self.parameters())

    def _step(self, part: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        logits = self(x)
        loss = self.criterion(logits, y)
        mean_loss, accuracy = getattr(self, f"{part}_loss"), getattr(self, f"{part}_acc")
        mean_loss(loss)
        accuracy(logits.argmax(1), y)
        self.log(f"{part}/loss", mean_loss, on_step=False, on_epoch=True)
        self.log(f"{part}/acc", accuracy, on_step=False, on_epoch=True)
        return loss


@hydra.main(version_base="1.3", config_path=None, config_name="train")
def train(cfg: DictConfig) -> float:
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    data, model, logger = instantiate(cfg.data), instantiate(cfg.model), instantiate(cfg.logger)
    callbacks = [instantiate(callback) for callback in cfg.callbacks.values()]
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=logger)
    logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    trainer.fit(model, data)
    val = float(trainer.callback_metrics["val/acc"])
    trainer.test(model, data, verbose=False)
    test = float(trainer.callback_metrics["test/acc"])
    point = {"lr": cfg.model.optimizer.lr, "batch_size": cfg.data.batch_size, "epochs": cfg.trainer.max_epochs}
    TRIALS.append({**point, "val_accuracy": val, "test_accuracy": test})
    return val


def main() -> None:
    keys = {"lr": "model.optimizer.lr", "batch_size": "data.batch_size", "epochs": "trainer.max_epochs"}
    overrides = [f"{keys[name]}={','.join(map(str, values))}" for name, values in task.grid().items()]
    sys.argv = [sys.argv[0], "-m", *overrides]
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    train()
    task.finish(TRIALS)


if __name__ == "__main__":
    main()
