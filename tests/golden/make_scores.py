"""Writes tests/golden/cityscapes_scores.json: scores of drawn images by the official cityscapesScripts.

The images are drawn from fixed seeds, and tests/evaluation draws the same ones through `draw_case`, so
only the scores are stored. cityscapesScripts 2.3.0 stops with an error on NumPy 2.4 and later, so it needs
an environment of its own, without this package:

  python -m venv .venv-official
  .venv-official/bin/pip install cityscapesscripts==2.3.0 'numpy<2.4'
  .venv-official/bin/python tests/golden/make_scores.py tests/golden/cityscapes_scores.json
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import pathlib
import tempfile

import numpy as np

SHAPE = (24, 40)
SCORED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
IGNORED = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
ALL = SCORED + IGNORED
# By case, per image: the label ids its ground truth and its wrong predictions are drawn from.
CASES = {
  'ordinary': [(ALL, SCORED)] * 3,
  'ignored_ids_predicted': [(ALL, ALL)] * 3,
  'classes_absent': [((7, 11, 23, 26, 0, 4), (7, 11, 23, 26))] * 2,
  'classes_only_predicted': [((7, 11, 23), (7, 11, 23, 31, 33))] * 2,
  'classes_only_predicted_on_ignored': [((7, 11, 0), (7, 11)), ((1, 3, 30), (31, 33))],
  'one_image_void': [(ALL, SCORED), (IGNORED, ALL), (SCORED, SCORED)],
  'all_images_void': [(IGNORED, ALL)] * 2,
  'nothing_right': [((7, 8), (11, 0))],
}


def draw_case(name: str) -> list[tuple[np.ndarray, np.ndarray]]:
  """Draws the images of a case.

  Args:
    name: A key of `CASES`.

  Returns:
    Ground truth and prediction per image, label ids, uint8 `SHAPE`; predictions are right at about 60 % of
    the pixels, except in the case that says otherwise.
  """
  random = np.random.RandomState(list(CASES).index(name))  # its stream is frozen for all NumPy versions
  right = 0.0 if name == 'nothing_right' else 0.6
  images = []
  for label_ids, prediction_ids in CASES[name]:
    label = np.asarray(label_ids, np.uint8)[random.randint(len(label_ids), size=SHAPE)]
    other = np.asarray(prediction_ids, np.uint8)[random.randint(len(prediction_ids), size=SHAPE)]
    scored = np.isin(label, SCORED)  # ignored ids are predicted only where a case draws them
    images.append((label, np.where((random.random_sample(SHAPE) < right) & scored, label, other)))
  return images


def official_scores(images: list[tuple[np.ndarray, np.ndarray]]) -> dict:
  """Scores images with cityscapesScripts; nan becomes None."""
  from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
  from PIL import Image

  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    (root / 'labels').mkdir()
    (root / 'predictions').mkdir()
    label_paths = []
    for index, (label, prediction) in enumerate(images):
      stem = f'city_000000_{index:06}'
      label_paths.append(str(root / 'labels' / f'{stem}_gtFine_labelIds.png'))
      Image.fromarray(label).save(label_paths[-1])
      Image.fromarray(prediction).save(root / 'predictions' / f'{stem}_leftImg8bit.png')
    args = copy.copy(official.args)
    args.predictionPath, args.predictionWalk = str(root / 'predictions'), None
    args.evalInstLevelScore = args.JSONOutput = False
    args.quiet = True
    prediction_paths = [official.getPrediction(args, path) for path in label_paths]
    result = official.evaluateImgLists(prediction_paths, label_paths, args)
  scored = [label.name for label in official.labels if not label.ignoreInEval]

  def number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)

  return {
    'iou': {name: number(result['classScores'][name]) for name in scored},
    'mean_iou_19': number(result['averageScoreClasses']),
  }


def main() -> None:
  """Scores every case and writes the file."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('output', type=pathlib.Path)
  output = parser.parse_args().output
  golden = {
    'source': 'tests/golden/make_scores.py, cityscapesscripts 2.3.0',
    'cases': {name: official_scores(draw_case(name)) for name in CASES},
  }
  output.write_text(json.dumps(golden, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
  main()
