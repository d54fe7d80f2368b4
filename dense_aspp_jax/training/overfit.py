"""Overfits a few images: what any network must manage before it is trained on many."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from dense_aspp_jax.datasets.class_frequencies import require_pixels
from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.metrics import Scores, class_scores, confusion_matrix
from dense_aspp_jax.evaluation.pictures import Rgb, comparison, gallery
from dense_aspp_jax.evaluation.predictor import Predictor
from dense_aspp_jax.progress import progress_bar, say
from dense_aspp_jax.training.augmentation import Augmentation
from dense_aspp_jax.training.config import parse_config, plain
from dense_aspp_jax.training.train_state import create_state
from dense_aspp_jax.training.train_step import make_train_step

_STEPS_BETWEEN_SCORES = 20


class Overfitted(NamedTuple):
  """The result.

  Attributes:
    scores: Of the last step, on the training images at the size the network sees.
    steps: Updates made.
    seconds: For all updates, without compiling.
    pixel_accuracy: Of the last update, with the statistics of its batch. If it is far above
      `scores.pixel_accuracy`, the running statistics are at fault.
    history: (step, loss, mean IoU) of each time the images were scored.
    stride: Input pixels per logit.
    picture: Images, ground truth and predictions.
  """

  scores: Scores
  steps: int
  seconds: float
  pixel_accuracy: float
  history: list[tuple[int, float, float]]
  stride: int
  picture: Rgb


def overfit(config: ConfigDict, *, num_images: int, target: float, max_steps: int) -> Overfitted:
  """Trains on a few images alone until their mean IoU, with running statistics, is above `target`.

  Starts from random weights and trains all of them. Disables augmentation, dropout, weight decay and moving
  averages; the learning rate follows a cosine to 0 after a warm-up of at most a tenth of the steps.
  Everything else is as configured. Every batch holds all images, on one device. Images larger than the
  configured crop are cropped to their centre.

  Args:
    config: As configs/default.py.
    num_images: How many, spread evenly over the training split, or over those of all data sets.
    target: Mean IoU, 0..1.
    max_steps: Where to give up.

  Raises:
    InputError: Bad configuration or data.
  """
  warmup_steps = min(config.optimizer.warmup_steps, max_steps // 10)
  config = plain(config)  # a ConfigDict takes no 0.0 where a file of one's own has 0
  config['model'] |= {'dropout_rate': 0.0}
  config['optimizer'] |= {
    'weight_decay': 0.0,
    'schedule': 'cosine',
    'extractor_learning_rate_factor': 1.0,
    'warmup_steps': warmup_steps,
  }
  config['training'] |= {
    'gradient_accumulation': 1,
    'ema_decay': 0.0,
    'max_skipped_steps': 0,
  }
  checked = parse_config(config)
  model, label_set, data = checked.model, checked.label_set, checked.data
  split = data.open_train(label_set=label_set, cached=False)
  if len(split) < num_images:
    raise InputError(f'split {data.train_split!r} has {len(split)} images; {num_images} are asked for')
  indices = np.linspace(0, len(split) - 1, num_images).round().astype(int)
  examples = [center_crop(split[int(index)], checked.augmentation.crop_size) for index in indices]
  batch = {name: np.stack([getattr(e, name) for e in examples]) for name in ('image', 'label')}
  pixels = np.bincount(batch['label'].ravel(), minlength=256)
  learned = checked.loss.counted_classes(label_set.num_classes)
  require_pixels(f'{num_images} images of {data.train_split}', pixels, label_set, learned)
  num_classes, ignored = label_set.num_classes, batch['label'] == checked.loss.ignore_label
  counted = np.where(ignored, num_classes, np.minimum(batch['label'], num_classes)).astype(np.uint8)
  objective = checked.loss.counted(examples, num_classes)
  mesh = Mesh(np.array(jax.devices()[:1]), ('data',))
  changed = dataclasses.replace(checked, augmentation=Augmentation(), loss=objective)
  optimizer, train_step = make_train_step(changed, max_steps, mesh)
  state = create_state(model, optimizer, checked.seed)
  placed = jax.tree.map(jnp.asarray, batch)
  say(f'{num_images} images at {"x".join(map(str, batch["label"].shape[1:]))}; compiling ...')
  compiled = train_step.lower(state, placed).compile()
  predictor = Predictor(model, state.variables, data.preprocessing)
  history, seconds, metrics = [], 0.0, {}
  with progress_bar(max_steps, 'overfitting', 'step') as bar:
    for step in range(1, max_steps + 1):
      start = time.perf_counter()
      state, metrics = compiled(state, placed)
      loss = float(metrics['loss'])
      seconds += time.perf_counter() - start
      bar.update()
      if step % _STEPS_BETWEEN_SCORES == 0 or step == max_steps:
        predictor.update(state.variables)
        predictions = predictor.predict_resized(batch['image'], batch['label'].shape[1:])
        counts = confusion_matrix(counted, predictions, num_classes + 1)
        scores = class_scores(counts, range(num_classes), label_set.class_names)
        history.append((step, loss, scores.mean_iou))
        bar.set_postfix({'loss': f'{loss:.3f}', 'mIoU': f'{100 * scores.mean_iou:.1f}%'})
        say(f'step {step}: loss {loss:.3f}, mean IoU {100 * scores.mean_iou:.1f} %')
        if scores.mean_iou > target or not np.isfinite(loss):
          break
  rows = [
    comparison(image, label, prediction, label_set)
    for image, label, prediction in zip(*batch.values(), predictions, strict=True)
  ]
  accuracy = float(metrics['pixel_accuracy'])
  return Overfitted(scores, step, seconds, accuracy, history, model.stride, gallery(rows, label_set))


def center_crop(example: CachedExample, size: Sequence[int] | None) -> CachedExample:
  """The middle of an example, at most `size` (height, width); None: all of it."""
  rows, columns = (
    slice((side - min(side, wanted)) // 2, (side + min(side, wanted)) // 2)
    for side, wanted in zip(example.label.shape, size or example.label.shape, strict=True)
  )
  return CachedExample(example.image_id, example.image[rows, columns], example.label[rows, columns])
