"""Tasks: what is learned. `task.py` has the base class, `measures.py` the metrics."""

from sweepstack.training.tasks.classification import Classification as Classification
from sweepstack.training.tasks.multilabel import Multilabel as Multilabel
from sweepstack.training.tasks.regression import Regression as Regression
from sweepstack.training.tasks.task import Task as Task
