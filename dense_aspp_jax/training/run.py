"""A trained network, loaded from a run's directory or from a model file, with its configuration and data."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Num

from dense_aspp_jax.checkpoint_io import load_checkpoint, save_checkpoint
from dense_aspp_jax.datasets.cache import CacheSplit, DecodedSplit
from dense_aspp_jax.datasets.data import Data
from dense_aspp_jax.datasets.joined import parts_of
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.outputs import CLASSES
from dense_aspp_jax.evaluation.predictor import Predictor
from dense_aspp_jax.files import replaced_directory, write_json
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.models.counts import abstract_variables
from dense_aspp_jax.models.segmentation import Network, SegmentationModel
from dense_aspp_jax.paths import local_path
from dense_aspp_jax.pretrained import find_model, shown_model
from dense_aspp_jax.provenance import provenance
from dense_aspp_jax.training.checkpoints import EMA, RAW, restore_variables
from dense_aspp_jax.training.config import Evaluation, plain
from dense_aspp_jax.training.model_file import ModelRecord, read_model_file
from dense_aspp_jax.training.optimizer import Optimizer
from dense_aspp_jax.training.workdir import CONFIG, LABELS, read_config, read_label_set, read_starts

RUNNING, RECALIBRATED = 'running', 'recalibrated'
# WORKDIR/recalibrated/STEP_WEIGHTS/recalibration.json: how BN statistics were estimated again
# WORKDIR/recalibrated/STEP_WEIGHTS/checkpoint/: Orbax, 'batch_stats'
RECALIBRATED_FOLDER = 'recalibrated'
_RECORD, _CHECKPOINT, _ITEM = 'recalibration.json', 'checkpoint', 'batch_stats'


@dataclasses.dataclass(frozen=True)
class Run:
  """A trained network with all that is needed to use it.

  Attributes:
    workdir: The run's directory, or the model file.
    checkpoint: Which one was asked for: 'best', 'latest', or a step.
    config: The run's configuration as plain data.
    label_set: What its class indices mean.
    model: The network.
    variables: Its 'params' and 'batch_stats'.
    step: Updates made before the checkpoint was written.
    predictor: Predicts RGB images of any size.
    weights: 'raw', or 'ema' for their moving averages.
    bn: The statistics that BN takes: 'running', those of training, or 'recalibrated'.
    record: What the model file says; None: the network comes from a run's directory.
  """

  workdir: pathlib.Path
  checkpoint: str
  config: dict[str, Any]
  label_set: LabelSet
  model: nn.Module
  variables: dict[str, Any]
  step: int
  predictor: Predictor
  weights: str
  bn: str
  record: ModelRecord | None = None

  def predict(self, image: Any, outputs: str = CLASSES) -> Num[np.ndarray, 'h w *classes']:
    """Predicts an image of any size; see `Predictor.predict`."""
    return self.predictor.predict(image, outputs)

  def predict_many(self, images: Any, outputs: str = CLASSES) -> Iterator[Num[np.ndarray, 'h w *classes']]:
    """Predicts images one after another; see `Predictor.predict_many`."""
    return self.predictor.predict_many(images, outputs)

  @property
  def starts(self) -> list[dict[str, Any]]:
    """The provenance of each time the training was started, none where that is not known."""
    return self.record.starts if self.record else read_starts(self.workdir, default=[])

  def describe(self) -> dict[str, Any]:
    """What a result file says of the run and the code it comes from, as plain JSON data."""
    return {
      'dataset': plain(self.config['data']['dataset']),
      'workdir': shown_model(self.workdir),
      'checkpoint': self.checkpoint,
      'step': self.step,
      'weights': self.weights,
      'bn': self.bn,
      'seed': self.config['seed'],
      'label_set': self.label_set.name,
      'config': self.config,
      'provenance': provenance(),
    }

  @property
  def data(self) -> Data:
    """The run's data, as this network takes them."""
    return Data(**self.config['data'])

  @property
  def batch_size(self) -> int:
    """Images per call in evaluation, which does not affect results."""
    return Evaluation(**self.config.get('evaluation', {})).batch_size

  def load_split(
    self,
    split: str,
    data_dir: str | None = None,
    cached: bool = False,
    cache_dir: str | None = None,
    dataset: str | None = None,
  ) -> CacheSplit | DecodedSplit:
    """Opens a split of a data set as this network takes it, with labels at their native size.

    Its `label_set` has the run's classes and the label ids of that data set.

    Args:
      split: 'train' (not augmented, without what the run held out), 'held_out', 'train+validation',
        'validation' or 'test'.
      data_dir: Where the data are now: the folder of a labelled folder, or where prepared data are kept;
        None: where the run's configuration says.
      cached: See `Data.open`.
      cache_dir: Where the cache goes; None: as `Data.cache_dir` says.
      dataset: As `config.data.dataset`; None: the run's first.

    Raises:
      InputError: The data are not there, or cannot be used; or classes of another data set have no
        counterpart in the network's.
    """
    data = self._data(data_dir, cache_dir, dataset)
    return data.open(split, label_set=self.label_set, cached=cached)

  def load_train_split(self, data_dir: str | None = None, cache_dir: str | None = None) -> CacheSplit:
    """Opens the training split of the first data set as training reads it, without what is held out.

    Its images are not augmented.
    """
    return parts_of(self._data(data_dir, cache_dir).open_train(label_set=self.label_set))[0]

  def _data(self, data_dir: str | None, cache_dir: str | None, dataset: str | None = None) -> Data:
    data = self.data.parts[0]
    if dataset not in (None, *data.datasets):
      data = dataclasses.replace(data, dataset=(dataset,), shares=(1,), held_out=())
    if cache_dir:
      data = dataclasses.replace(data, cache_dir=cache_dir)
    if data_dir:
      data = data.moved(data_dir)
    data.check_place('give the place where they are now: --data-dir (data_dir= in Python)')
    return data

  def save_statistics(self, batch_stats: Mapping[str, Any], record: Mapping[str, Any]) -> pathlib.Path:
    """Stores BN statistics that were estimated again for this step and these weights; replaces earlier ones.

    Args:
      batch_stats: The statistics.
      record: JSON data: how they were estimated.

    Returns:
      The folder written.

    Raises:
      InputError: The folder holds something else.
      RunError: It cannot be written.
    """
    directory = _statistics_directory(self.workdir, self.step, self.weights)
    with replaced_directory(directory, _RECORD) as folder:
      save_checkpoint(folder / _CHECKPOINT, {_ITEM: dict(batch_stats)}, shown=directory)
      write_json(folder / _RECORD, {**self.describe(), **record})
    return directory


def load_model(
  model: str | os.PathLike,
  checkpoint: str | int | None = None,
  weights: str | None = None,
  bn: str | None = None,
) -> Run:
  """Loads a trained network: `load_model('streets').predict('photo.jpg')` gives class indices.

  Args:
    model: A run's directory, a file that `dense-aspp pack` wrote, or the name of a network that comes with
      the package, see `model_path`.
    checkpoint: Of a directory, see `load_run`; None: 'best'.
    weights: Likewise.
    bn: Likewise; None: 'running'.

  Raises:
    InputError: It is neither, is damaged, or has no such checkpoint, weights or statistics. A file holds one
      checkpoint, one set of weights and one of statistics.
    RunError: The system refuses to read it, see `load_checkpoint`.
  """
  if not isinstance(model, str | os.PathLike):
    raise InputError(f'model {model!r}: expected the path of a run or of a model file, or a name')
  path = find_model(model)
  if not path.is_file():
    return load_run(path, 'best' if checkpoint is None else checkpoint, weights, bn or RUNNING)
  record, variables = read_model_file(path)
  for option, asked in (('checkpoint', checkpoint), ('weights', weights), ('bn', bn)):
    if asked is not None and str(asked) != (there := getattr(record, option)):
      raise InputError(
        f'{shown_model(path)}: a model file with {option} {there} alone, not {asked}; leave that out'
      )
  config, network = record.config, _network(record.config)
  predictor = Predictor(network, variables, Data(**config['data']).preprocessing)
  variables = jax.device_put(variables, jax.local_devices()[0])
  return Run(
    path,
    record.checkpoint,
    config,
    record.label_set,
    network,
    variables,
    record.step,
    predictor,
    record.weights,
    record.bn,
    record,
  )


def model_label_set(model: str | os.PathLike) -> LabelSet:
  """What the class indices of a trained network mean; see `load_model`."""
  path = find_model(model)
  return read_model_file(path)[0].label_set if path.is_file() else read_label_set(path)


def load_run(
  workdir: str | os.PathLike, checkpoint: str | int = 'best', weights: str | None = None, bn: str = RUNNING
) -> Run:
  """Loads a run: `load_run('runs/x').predictor.predict(image)` gives class indices.

  Args:
    workdir: The run's directory.
    checkpoint: 'best' (by validation mIoU), 'latest', or a step.
    weights: 'raw', or 'ema' for the moving averages; None: these where the run has them.
    bn: The statistics that BN takes: 'running', those of training, or 'recalibrated', what `dense-aspp
      recalibrate` made of them.

  Raises:
    InputError: Not a run's directory, or no such checkpoint, averages or statistics.
    RunError: The system refuses to read it, see `load_checkpoint`.
  """
  if not isinstance(workdir, str | os.PathLike):
    raise InputError(f'workdir {workdir!r}: expected the path of a run')
  workdir, checkpoint = local_path(os.fsdecode(workdir)), str(checkpoint)
  config = read_config(workdir)
  label_set = read_label_set(workdir)
  model = _network(config)
  preprocessing = Data(**config['data']).preprocessing
  if label_set.num_classes != config['model']['num_classes']:
    raise InputError(
      f'{workdir}: {LABELS} has {label_set.num_classes} classes, {CONFIG} says model.num_classes = '
      f'{config["model"]["num_classes"]}; restore the files of the run'
    )
  weights = _weights(workdir, config, weights)
  step, variables = restore_variables(
    workdir, checkpoint, abstract_variables(model), config['model'], weights
  )
  if bn == RECALIBRATED:
    directory = _statistics_directory(workdir, step, weights)
    if not (directory / _RECORD).is_file():
      raise InputError(
        f'{directory}: no recalibrated statistics of the {weights} weights of step {step}. Make them with: '
        f'dense-aspp recalibrate --workdir {workdir} --checkpoint {checkpoint} --weights {weights}'
      )
    statistics = load_checkpoint(directory / _CHECKPOINT, {_ITEM: variables.get(_ITEM, {})})
    variables |= jax.device_put(statistics, jax.local_devices()[0])
  elif bn != RUNNING:
    raise InputError(f'bn {bn!r}: expected {RUNNING} or {RECALIBRATED}')
  predictor = Predictor(model, variables, preprocessing)
  return Run(workdir, checkpoint, config, label_set, model, variables, step, predictor, weights, bn)


def _network(config: dict[str, Any]) -> SegmentationModel:
  optimizer = Optimizer(**config.get('optimizer', {}))
  return Network(**config['model']).create(optimizer.freezes_extractor)


def _weights(workdir: pathlib.Path, config: dict[str, Any], weights: str | None) -> str:
  has_ema = bool(config.get('training', {}).get('ema_decay'))
  if weights is None:
    return EMA if has_ema else RAW
  if weights not in (RAW, EMA):
    raise InputError(f'weights {weights!r}: expected {RAW} or {EMA}')
  if weights == EMA and not has_ema:
    raise InputError(
      f'{workdir}: no moving averages of the weights (training.ema_decay = 0 in {CONFIG}); use those of {RAW}'
    )
  return weights


def _statistics_directory(workdir: pathlib.Path, step: int, weights: str) -> pathlib.Path:
  return workdir / RECALIBRATED_FOLDER / f'{step}_{weights}'
