"""The evaluations of a run under way: of the raw weights, and of their moving averages."""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dense_aspp_jax.datasets.cache import CacheSplit
from dense_aspp_jax.evaluation.evaluate import evaluate, predict_split
from dense_aspp_jax.evaluation.metrics import Scores, protocol
from dense_aspp_jax.evaluation.pictures import predictions_gallery
from dense_aspp_jax.evaluation.predictor import Predictor
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.progress import say
from dense_aspp_jax.provenance import provenance, write_json
from dense_aspp_jax.training import workdir as workdirs
from dense_aspp_jax.training.checkpoints import EMA, LATEST, RAW, Checkpoints
from dense_aspp_jax.training.log import RunLog
from dense_aspp_jax.training.stop import StopSignals
from dense_aspp_jax.training.train_step import TrainState


class RunEvaluation:
  """Scores a state on the validation split: logs it, keeps the best, writes `WORKDIR/scores.json`.

  The best is that of the moving averages where the state has them: the weights that are used by default.
  """

  def __init__(
    self,
    config: ConfigDict,
    workdir: pathlib.Path,
    label_set: LabelSet,
    predictor: Predictor,
    validation_split: CacheSplit,
    *,
    train_images: int,
    num_steps: int,
    checkpoints: Checkpoints,
    log: RunLog,
    stop: StopSignals,
  ):
    """Takes what an evaluation needs; `train_images` and `num_steps` of the whole run go into scores.json."""
    self._config, self._workdir, self._label_set = config, workdir, label_set
    self._predictor, self._split = predictor, validation_split
    self._train_images, self._num_steps = train_images, num_steps
    self._checkpoints, self._log, self._stop = checkpoints, log, stop

  def __call__(self, state: TrainState) -> dict[str, Scores]:
    """Evaluates; all processes must call it.

    Returns:
      The scores of the weights 'raw' and, where the state has moving averages, 'ema', which come last.
    """
    step = int(state.step)
    scores = {RAW: self._score(step, RAW, state.variables, 'validation')}
    if state.ema is not None:
      scores[EMA] = self._score(step, EMA, state.ema, 'validation_ema')
    self._checkpoints.save_best(state, ranking(scores).mean_iou)
    if jax.process_index() == 0:
      # Last: it says that this evaluation is complete.
      write_json(self._workdir / workdirs.SCORES, self._result(step, scores))
    return scores

  def _score(self, step: int, weights: str, variables: Any, kind: str) -> Scores:
    self._predictor.update(variables)
    batch_size = self._config.evaluation.batch_size
    confusion = evaluate(
      self._predictor,
      self._split,
      self._label_set,
      batch_size=batch_size,
      before_batch=self._stop.check,
    )
    scores = confusion.scores()
    count, picture = self._config.evaluation.num_pictures, None
    if count and weights == RAW and jax.process_index() == 0:
      predictions = predict_split(self._predictor, self._split, batch_size, self._stop.check)
      picture = predictions_gallery(itertools.islice(predictions, count), self._label_set)
    _report(step, scores, picture, self._log, kind, '' if weights == RAW else f'{weights.upper()}: ')
    return scores

  def _result(self, step: int, scores: dict[str, Scores]) -> dict[str, Any]:
    data = self._config.data
    return {
      **scores[RAW].to_json(),
      'weights': RAW,
      EMA: scores[EMA].to_json() if EMA in scores else None,
      'bn': 'running',
      'bn_batch_size': None,
      'test_time': None,
      'checkpoint': LATEST,
      'step': step,
      'num_steps': self._num_steps,
      'dataset': data.dataset,
      'split': data.validation_split,
      'images': len(self._split),
      'train_images': self._train_images,
      'protocol': protocol(self._label_set),
      'seed': self._config.seed,
      'config': self._config.to_dict(),
      'provenance': provenance(),
    }


def ranking(scores: dict[str, Scores]) -> Scores:
  """Those that rank checkpoints: of the moving averages, where there are any."""
  return scores.get(EMA, scores[RAW])


def _report(
  step: int, scores: Scores, picture: np.ndarray | None, log: RunLog, kind: str, prefix: str
) -> None:
  values: dict[str, Any] = {
    **{name: value for name, value in scores.to_json().items() if name != 'iou'},
    **{f'iou/{name}': value for name, value in scores.iou.items()},
  }
  log.scalars(step, kind, values)
  if picture is not None:
    log.picture(step, kind, picture)
  say(
    f'step {step}: {prefix}mean IoU {100 * scores.mean_iou:.1f} %, '
    f'pixel accuracy {100 * scores.pixel_accuracy:.1f} %'
  )
