"""Pictures of label maps: colours, overlays, image / ground truth / prediction side by side."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.datasets.images import encode_png
from dense_aspp_jax.datasets.resize import resize_label
from dense_aspp_jax.files import write_file
from dense_aspp_jax.labels import LabelSet

Classes = UInt8[np.ndarray, 'h w']  # class indices and `IGNORE_LABEL`
Rgb = UInt8[np.ndarray, 'h w 3']

_GAP = 4  # pixels between panels
_BACKGROUND = 255
_TEXT_COLOR = (40, 40, 40)


def colorize(labels: Classes, label_set: LabelSet) -> Rgb:
  """Paints class indices in the colours of their classes; `IGNORE_LABEL` becomes black."""
  return label_set.colors[labels]


def overlay(image: Rgb, labels: Classes, label_set: LabelSet, alpha: float = 0.5) -> Rgb:
  """Lays the colours of the classes over an image of their size; ignored pixels stay as they are.

  Args:
    image: The image.
    labels: Class indices.
    label_set: Has the colours.
    alpha: Weight of the colours, 0..1.
  """
  if image.shape[:2] != labels.shape:
    raise ValueError(f'image of shape {image.shape}, labels of shape {labels.shape}; expected equal sizes')
  result = np.empty_like(image)
  for row, pixels, classes in zip(result, image, labels, strict=True):  # floats of all would take gigabytes
    blend = (1 - alpha) * pixels.astype(np.float32) + alpha * colorize(classes, label_set)
    painted = (classes < label_set.num_classes)[:, None]
    row[:] = np.where(painted, np.rint(blend).astype(np.uint8), pixels)
  return result


def side_by_side(panels: Sequence[Rgb], captions: Sequence[str]) -> Rgb:
  """Sets pictures of one size in a row, each under its caption of one line."""
  height, width = panels[0].shape[:2]
  if any(panel.shape != (height, width, 3) for panel in panels):
    raise ValueError(f'panels of shapes {[panel.shape for panel in panels]}; expected one size, RGB')
  font = ImageFont.load_default(max(10, min(height // 20, width // 12)))
  caption_height = round(1.5 * font.size)
  canvas = _canvas(caption_height + height, len(panels) * (width + _GAP) - _GAP)
  texts = []
  for index, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
    left = index * (width + _GAP)
    canvas[caption_height:, left : left + width] = panel
    texts.append((left + width // 2, caption_height // 2, 'mm', caption))
  return _write(canvas, font, texts)


def comparison(image: Rgb, label: Classes | None, prediction: Classes, label_set: LabelSet) -> Rgb:
  """Sets image, ground truth (if there is one) and prediction, of any sizes, side by side at the image's."""
  size = image.shape[:2]
  panels = {'image': image}
  if label is not None:
    panels['ground truth'] = colorize(resize_label(label, size), label_set)
  panels['prediction'] = colorize(resize_label(prediction, size), label_set)
  return side_by_side(list(panels.values()), list(panels))


def predictions_gallery(predictions: Iterable[tuple[CachedExample, Classes]], label_set: LabelSet) -> Rgb:
  """Stacks the `comparison` of each example with its prediction; see `evaluate.predict_split`."""
  rows = [
    comparison(e.image, label_set.encode(e.label, e.image_id), prediction, label_set)
    for e, prediction in predictions
  ]
  return gallery(rows, label_set)


def gallery(rows: Sequence[Rgb], label_set: LabelSet) -> Rgb:
  """Stacks pictures of any sizes from top to bottom, left-aligned, and the legend of the colours below."""
  rows = [*rows, legend(label_set, max(row.shape[1] for row in rows))]
  canvas = _canvas(sum(row.shape[0] + _GAP for row in rows) - _GAP, rows[-1].shape[1])
  top = 0
  for row in rows:
    canvas[top : top + row.shape[0], : row.shape[1]] = row
    top += row.shape[0] + _GAP
  return canvas


def legend(label_set: LabelSet, width: int) -> Rgb:
  """Draws the colours and names of a set's classes, in as many equal columns as the width (pixels) allows."""
  swatch = max(12, width // 100)  # height of a swatch and size of the text
  font, line = ImageFont.load_default(swatch), round(1.6 * swatch)
  column = 3 * swatch + round(max(font.getlength(name) for name in label_set.class_names))
  num_columns = max(1, min(width // column, label_set.num_classes))
  num_lines = -(-label_set.num_classes // num_columns)
  canvas = _canvas(num_lines * line, width)
  texts = []
  for index, name in enumerate(label_set.class_names):
    left, top = index // num_lines * column, index % num_lines * line + (line - swatch) // 2
    canvas[top : top + swatch, left : left + 2 * swatch] = label_set.colors[index]
    texts.append((left + round(2.4 * swatch), top + swatch // 2, 'lm', name))
  return _write(canvas, font, texts)


def save_png(path: pathlib.Path, array: Rgb | Classes) -> None:
  """Writes a PNG, whole or not at all; makes the folder.

  Raises:
    RunError: It cannot be written.
  """
  write_file(path, encode_png(array))


def _canvas(height: int, width: int) -> Rgb:
  return np.full((height, width, 3), _BACKGROUND, np.uint8)


def _write(canvas: Rgb, font: ImageFont.FreeTypeFont, texts: Sequence[tuple[int, int, str, str]]) -> Rgb:
  """Writes texts `(x, y, anchor, text)` onto a picture; anchors are Pillow's."""
  picture = Image.fromarray(canvas)
  draw = ImageDraw.Draw(picture)
  for x, y, anchor, text in texts:
    draw.text((x, y), text, fill=_TEXT_COLOR, font=font, anchor=anchor)
  return np.array(picture)
