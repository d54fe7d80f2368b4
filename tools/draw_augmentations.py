"""Draws a generated street scene under each augmentation: the picture of docs/training.md.

  python -m tools.draw_augmentations --output docs/images/augmentation.jpg

Each panel is the strongest of 32 draws, by the mean difference of colours. The last two are any two draws of
everything at once.
"""

from __future__ import annotations

import argparse
import functools
import io
import pathlib
import sys
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dense_aspp_jax.datasets.street_scenes.builder import render_scene
from dense_aspp_jax.evaluation.pictures import Classes, Rgb, side_by_side
from dense_aspp_jax.files import write_file
from dense_aspp_jax.training.augmentation import Augmentation, augment

SIZE = (128, 256)  # HxW of a panel
SCENE = (0, 3)  # seed and index
FIELDS: dict[str, Any] = {
  'scale_range': (0.5, 2.0),
  'flip_probability': 1.0,
  'rotation': 10.0,
  'brightness': 0.5,
  'contrast': 0.5,
  'saturation': 0.7,
  'hue': 0.1,
  'gamma': 0.7,
  'white_balance': 0.3,
  'grayscale_probability': 1.0,
  'blur': 1.5,
  'noise': 0.06,
}
EVERYTHING = {**FIELDS, 'flip_probability': 0.5, 'grayscale_probability': 0.1}
_COLUMNS = 5
_DRAWS = 32
_PADDING = (123.7, 116.3, 103.5)  # as in training: the mean of ImageNet
_GAP = 4  # pixels between rows; as `side_by_side` leaves between panels
_QUALITY = 82  # of JPEG


def main(argv: list[str] | None = None) -> int:
  """Writes the picture; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--output', type=pathlib.Path, required=True, help='the JPEG file')
  args = parser.parse_args(argv)
  buffer = io.BytesIO()
  Image.fromarray(picture()).save(buffer, 'JPEG', quality=_QUALITY, optimize=True)
  write_file(args.output, buffer.getvalue())
  return 0


def picture() -> Rgb:
  """The panels in rows, each under its field and value."""
  scene = render_scene(*SCENE, SIZE)
  panels = {'image': scene[0]}
  for name, value in FIELDS.items():
    images = draws(scene, Augmentation(crop_size=SIZE, **{name: value}))
    strength = np.abs(images - scene[0].astype(np.float32)).mean((1, 2, 3))
    panels[f'{name} = {value}'] = images[np.argmax(strength)]
  first, second, *_ = draws(scene, Augmentation(crop_size=SIZE, **EVERYTHING))
  panels |= {'all of them': first, 'all of them, another draw': second}
  captions, images = list(panels), list(panels.values())
  rows = [
    side_by_side(images[start : start + _COLUMNS], captions[start : start + _COLUMNS])
    for start in range(0, len(panels), _COLUMNS)
  ]
  gap = np.full((_GAP, rows[0].shape[1], 3), 255, np.uint8)
  return np.concatenate([part for row in rows for part in (row, gap)][:-1])


def draws(scene: tuple[Rgb, Classes], augmentation: Augmentation) -> UInt8[np.ndarray, 'n h w 3']:
  """Augmented copies of an image with its labels."""
  batch = dict(zip(('image', 'label'), (np.repeat(array[None], _DRAWS, 0) for array in scene), strict=True))
  step = jax.jit(functools.partial(augment, augmentation=augmentation, padding_color=_PADDING))
  return np.rint(step(batch, jax.random.key(0))['image']).astype(np.uint8)


if __name__ == '__main__':
  sys.exit(main())
