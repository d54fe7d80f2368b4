"""What a report shows, and where it is read from."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.evaluation.evaluate import predict_split
from dense_aspp_jax.evaluation.metrics import ConfusionMatrix, is_cityscapes
from dense_aspp_jax.evaluation.predictor import Predictor
from dense_aspp_jax.files import read_json
from dense_aspp_jax.labels import CITYSCAPES_19, IGNORE_LABEL, LabelSet

REMEDY = 'remove it to do without'


@dataclasses.dataclass(frozen=True)
class Example:
  """One image of the gallery.

  Attributes:
    image_id: Its name in the split.
    image: RGB, uint8 `[h, w, 3]`.
    label: Ground truth, class indices and `IGNORE_LABEL`, uint8 `[H, W]`.
    prediction: Class indices, uint8 `[H, W]`.
  """

  image_id: str
  image: np.ndarray
  label: np.ndarray
  prediction: np.ndarray

  def pixel_accuracy(self, label_set: LabelSet) -> float | None:
    """That of `Scores` for this image, 0..1: void ground truth counts nowhere; None without other pixels."""
    valid = self.label != IGNORE_LABEL
    if is_cityscapes(label_set):
      valid &= self.label < CITYSCAPES_19.num_classes
    return float(np.mean((self.label == self.prediction)[valid])) if valid.any() else None


@dataclasses.dataclass(frozen=True)
class Analysis:
  """What an analysis found.

  Attributes:
    data: As its JSON file.
    pictures: PNG files by name, those that `data` names.
  """

  data: Mapping[str, Any]
  pictures: Mapping[str, bytes]


@dataclasses.dataclass(frozen=True)
class ReportContent:
  """All that a report shows.

  Attributes:
    name: Name of the run.
    config: Its configuration as plain data.
    parameters: As `count_parameters` gives them.
    checkpoint: 'best', 'latest' or a step: which checkpoint was scored.
    step: Updates made before it was written.
    weights: 'raw', or 'ema' for their moving averages.
    bn: Whose BN statistics: 'running' or 'recalibrated'.
    split: The split that was scored.
    images: Images in it.
    confusion: Counts over the whole split.
    examples: Images for the gallery.
    metrics: Entries of metrics.jsonl, empty if there is no such file.
    starts: Provenance of each time the run was started, each with its 'step'.
    provenance: Of this report.
    similarity: Feature similarity of the classes.
    layer_removal: Scores without layers of DenseASPP.
  """

  name: str
  config: Mapping[str, Any]
  parameters: Mapping[str, int | float]
  checkpoint: str
  step: int
  weights: str
  bn: str
  split: str
  images: int
  confusion: ConfusionMatrix
  examples: Sequence[Example]
  metrics: Sequence[Mapping[str, Any]]
  starts: Sequence[Mapping[str, Any]]
  provenance: Mapping[str, Any]
  similarity: Analysis
  layer_removal: Analysis


def predict_examples(
  predictor: Predictor, split: Sequence[CachedExample], label_set: LabelSet, count: int, batch_size: int
) -> list[Example]:
  """Predicts some images, evenly spread over a split.

  Args:
    predictor: The network.
    split: Images at the network's input size with native label ids.
    label_set: What the class indices mean.
    count: How many; fewer where the split has fewer.
    batch_size: Images per call; that of the evaluation needs no new compilation.
  """
  count = min(count, len(split))
  chosen = [split[(2 * i + 1) * len(split) // (2 * count)] for i in range(count)]
  return [
    Example(e.image_id, e.image, label_set.encode(e.label, e.image_id), prediction)
    for e, prediction in predict_split(predictor, chosen, batch_size)
  ]


def run_analysis(analyse: Callable[..., dict[str, Any]]) -> Analysis:
  """Calls `analyse(output=FOLDER)` with a folder of its own: nothing that is stored elsewhere changes."""
  with tempfile.TemporaryDirectory() as folder:
    return _with_pictures(analyse(output=pathlib.Path(folder)), pathlib.Path(folder))


def read_analysis(folder: pathlib.Path, subject: Mapping[str, Any]) -> Analysis | None:
  """Reads what a command stored of an analysis.

  Args:
    folder: Holds NAME.json, NAME being its own name, and the pictures.
    subject: What it must be an analysis of, by key of the JSON data: 'checkpoint', 'step', 'split', ...; a
      key that the data lack counts as None.

  Returns:
    None if there is no such analysis, or not all of it.

  Raises:
    InputError: The JSON file cannot be read.
  """
  data = read_json(folder / f'{folder.name}.json', REMEDY, default={})
  if any(data.get(key) != value for key, value in subject.items()):
    return None
  with contextlib.suppress(FileNotFoundError):
    return _with_pictures(data, folder)


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
  """The entries of a metrics.jsonl, none if there is no such file; a line cut off by a kill is left out."""
  entries = []
  for line in path.read_text(encoding='utf-8').splitlines() if path.exists() else ():
    with contextlib.suppress(ValueError):
      entries.append(json.loads(line))
  return entries


def _with_pictures(data: dict[str, Any], folder: pathlib.Path) -> Analysis:
  plots = [data[key] for key in ('matrix_picture', 'curves_picture') if key in data]
  return Analysis(data, {name: (folder / name).read_bytes() for name in [*plots, *data['pictures']]})
