import hydra
from omegaconf import DictConfig

from sweepstack import app


@hydra.main(version_base="1.3", config_path=None, config_name="config")
def train(cfg: DictConfig) -> float:
    return app.run(cfg)


if __name__ == "__main__":
    app.main(train)
