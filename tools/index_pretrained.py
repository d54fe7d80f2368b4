"""Writes index.json, and a card for each model file, in dense_aspp_jax/pretrained.

  python -m tools.index_pretrained

All that is not in `ABOUT` comes from the files: classes, configuration, scores and what they were trained on.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jinja2

from dense_aspp_jax.datasets.data import Data
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import write_file, write_json
from dense_aspp_jax.pretrained import FOLDER, INDEX, Pretrained
from dense_aspp_jax.results.runs import Row
from dense_aspp_jax.results.summary import summarize
from dense_aspp_jax.results.table import card_tables
from dense_aspp_jax.training.model_file import SUFFIX, ModelRecord, read_model_file

_LOW_IOU = 0.5  # below which a card names a class


@dataclasses.dataclass(frozen=True)
class About:
  """What only people know of a network.

  Attributes:
    text: What it is for, in a line.
    weights: The licence of the weights that its training began with.
    hardware: What it was trained on.
    limits: Sentences on what it cannot do, beside the classes with low scores.
  """

  text: str
  weights: str
  hardware: str
  limits: str


_LITE0 = 'Apache-2.0, as are the ImageNet weights of EfficientNet-Lite0 that its training began with.'
_CPU = '2 cores of an AMD EPYC'
ABOUT = {
  'streets': About(
    "any photograph of a street: Cityscapes' classes",
    _LITE0,
    _CPU,
    'Nine of its classes it knows from photographs: road, sidewalk, building, fence, pole, vegetation, sky, '
    'person and car; of riders and bicycles, and of traffic lights and signs, only that a pixel is one of '
    'the two: in the photographs looked at, lights became signs. Wall, terrain, truck, bus, train and '
    'motorcycle it knows from drawn scenes alone. All photographs are of the streets of one town, from one '
    'camera in a car, by day and at dusk: none of night, snow or rain.',
  ),
  'camvid': About(
    "the CamVid benchmark's 11 classes",
    _LITE0,
    _CPU,
    'All photographs are of the streets of one town, from one camera in a car, by day and at dusk. In those '
    'looked at, a parked bicycle, which is void in CamVid, became a pedestrian, and thin poles were missed.',
  ),
}


def describe(name: str, path: pathlib.Path, record: ModelRecord) -> Pretrained:
  """The index's entry for a model file with scores; `record` is what it says of its weights."""
  row, content = Row.from_json(record.scores[0]), path.read_bytes()
  return Pretrained(
    name=name,
    about=ABOUT[name].text,
    classes=record.label_set.class_names,
    network=row.network,
    parameters=row.parameters,
    preprocessing=dataclasses.asdict(Data(**record.config['data']).preprocessing),
    config=record.config,
    scores=tuple(_in_order(score, record.label_set.class_names) for score in record.scores),
    weights=record.weights,
    step=record.step,
    bytes=len(content),
    sha256=hashlib.sha256(content).hexdigest(),
    licences={'weights': ABOUT[name].weights, **record.terms},
  )


def _in_order(score: dict[str, Any], classes: Sequence[str]) -> dict[str, Any]:
  """A score with the IoUs in the order of the classes; a file's JSON has all keys in that of the alphabet."""
  iou = {name: score['scores']['iou'][name] for name in classes}
  return score | {'scores': score['scores'] | {'iou': iou}}


def card(model: Pretrained, record: ModelRecord) -> str:
  """The model card, Markdown with the front matter that Hugging Face reads."""
  rows = [Row.from_json(score) for score in model.scores]
  known = {name: iou for name, iou in rows[0].scores.iou.items() if iou is not None}
  weak = [f'{name} ({100 * iou:.0f})' for name, iou in known.items() if iou < _LOW_IOU]
  template = pathlib.Path(__file__).with_name('pretrained_card.md.jinja').read_text(encoding='utf-8')
  return jinja2.Template(
    template, trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
  ).render(
    model=model,
    row=rows[0],
    protocol=rows[0].protocol,
    tables=card_tables(summarize(rows).groups),
    weak=weak,
    low=f'{100 * _LOW_IOU:.0f}',
    about=ABOUT[model.name],
    origin=next((s['extractor_weights'] for s in record.starts if 'extractor_weights' in s), None),
    datasets=list(record.terms),
  )


def main(arguments: list[str] | None = None) -> int:
  """Writes the files; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.parse_args(arguments)
  paths = {path.stem: path for path in FOLDER.glob(f'*{SUFFIX}')}
  if unknown := paths.keys() - ABOUT.keys():
    raise InputError(f'{", ".join(sorted(unknown))}: say what it is for in ABOUT')
  models = []
  for name in filter(paths.get, ABOUT):
    record, _ = read_model_file(paths[name])
    if not record.scores:
      raise InputError(f'{paths[name]}: has no scores; pack it when its run is finished')
    models.append(describe(name, paths[name], record))
    write_file(models[-1].card, card(models[-1], record).encode())
  write_json(INDEX, [dataclasses.asdict(model) for model in models])
  print(f'{INDEX}: {", ".join(model.name for model in models)}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
