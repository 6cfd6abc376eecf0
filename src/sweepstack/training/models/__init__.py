"""Models: from inputs [N, *shape] to outputs [N, classes]. A config names them by `sweepstack.training.models.MLP`."""

from sweepstack.training.models.building import answer_to_any, build_model
from sweepstack.training.models.convolutional import CNN, ResNet18
from sweepstack.training.models.dense import MLP, Linear, Logistic
from sweepstack.training.models.recurrent import LSTM
from sweepstack.training.models.transformer import ViT

__all__ = ["CNN", "LSTM", "MLP", "Linear", "Logistic", "ResNet18", "ViT", "answer_to_any", "build_model"]
