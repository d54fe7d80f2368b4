"""Configurations of train steps, for networks that no configuration can name."""

from dense_aspp_jax.datasets.data import Data
from dense_aspp_jax.label_sets import CITYSCAPES_20
from dense_aspp_jax.training.augmentation import Augmentation
from dense_aspp_jax.training.config import Checkpoint, Config, Evaluation, Init, Training
from dense_aspp_jax.training.objective import Objective
from dense_aspp_jax.training.optimizer import Optimizer

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def step_config(model, *, seed=0, augmentation=None, loss=None, mean=MEAN, std=STD, class_map=(), **training):
  """A configuration with the sections and the fields of `training` given, the rest at its default."""
  return Config(
    seed=seed,
    model=model,
    init=Init(),
    data=Data(
      dataset='cityscapes',
      label_set='cityscapes20',
      image_size=(4, 6),
      mean=mean,
      std=std,
      class_map=class_map,
    ),
    augmentation=augmentation or Augmentation(),
    loss=loss or Objective(),
    optimizer=Optimizer(),
    training=Training(**{'num_epochs': 1, 'batch_size': 8, **training}),
    evaluation=Evaluation(),
    checkpoint=Checkpoint(),
    label_set=CITYSCAPES_20,
  )
