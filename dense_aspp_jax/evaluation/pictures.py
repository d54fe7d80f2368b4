"""Pictures of label maps: colours, overlays, image / ground truth / prediction side by side."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.datasets.images import encode_png
from dense_aspp_jax.datasets.resize import resize_label
from dense_aspp_jax.files import write_file
from dense_aspp_jax.labels import LabelSet

_GAP = 4  # pixels between panels
_BACKGROUND = 255
_TEXT_COLOR = (40, 40, 40)


def colorize(labels: np.ndarray, label_set: LabelSet) -> np.ndarray:
  """Paints class indices in the colours of their classes.

  Args:
    labels: Class indices, uint8 `[h, w]`; `IGNORE_LABEL` becomes black.
    label_set: Has the colours.

  Returns:
    RGB, uint8 `[h, w, 3]`.
  """
  return label_set.colors[labels]


def overlay(image: np.ndarray, labels: np.ndarray, label_set: LabelSet, alpha: float = 0.5) -> np.ndarray:
  """Lays the colours of the classes over an image.

  Args:
    image: RGB, uint8 `[h, w, 3]`.
    labels: Class indices, uint8 `[h, w]`; where they are `IGNORE_LABEL` the image stays as it is.
    label_set: Has the colours.
    alpha: Weight of the colours, 0..1.

  Returns:
    RGB, uint8 `[h, w, 3]`.
  """
  if image.shape[:2] != labels.shape:
    raise ValueError(f'image of shape {image.shape}, labels of shape {labels.shape}; expected equal sizes')
  result = np.empty_like(image)
  for row, pixels, classes in zip(result, image, labels, strict=True):  # floats of all would take gigabytes
    blend = (1 - alpha) * pixels.astype(np.float32) + alpha * colorize(classes, label_set)
    painted = (classes < label_set.num_classes)[:, None]
    row[:] = np.where(painted, np.rint(blend).astype(np.uint8), pixels)
  return result


def side_by_side(panels: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
  """Sets pictures of one size in a row, each under its caption.

  Args:
    panels: RGB, each uint8 `[h, w, 3]`.
    captions: One line per panel.

  Returns:
    RGB, uint8 `[height, width, 3]`, a little higher than h.
  """
  height, width = panels[0].shape[:2]
  if any(panel.shape != (height, width, 3) for panel in panels):
    raise ValueError(f'panels of shapes {[panel.shape for panel in panels]}; expected one size, RGB')
  font = _font(max(10, min(height // 20, width // 12)))
  caption_height = round(1.5 * font.size)
  canvas = _canvas(caption_height + height, len(panels) * (width + _GAP) - _GAP)
  for index, panel in enumerate(panels):
    left = index * (width + _GAP)
    canvas[caption_height:, left : left + width] = panel
  return _write(
    canvas,
    font,
    [
      (index * (width + _GAP) + width // 2, caption_height // 2, 'mm', caption)
      for index, caption in enumerate(captions)
    ],
  )


def comparison(
  image: np.ndarray, label: np.ndarray | None, prediction: np.ndarray, label_set: LabelSet
) -> np.ndarray:
  """Sets image, ground truth and prediction side by side, at the size of the image.

  Args:
    image: RGB, uint8 `[h, w, 3]`.
    label: Ground truth, class indices, uint8, any size; `IGNORE_LABEL` is black. None leaves it out.
    prediction: Class indices, uint8, any size.
    label_set: Has the colours.

  Returns:
    RGB, uint8 `[height, width, 3]`.
  """
  size = image.shape[:2]
  panels = {'image': image}
  if label is not None:
    panels['ground truth'] = colorize(resize_label(label, size), label_set)
  panels['prediction'] = colorize(resize_label(prediction, size), label_set)
  return side_by_side(list(panels.values()), list(panels))


def predictions_gallery(
  predictions: Iterable[tuple[CachedExample, np.ndarray]], label_set: LabelSet
) -> np.ndarray:
  """Stacks the `comparison` of each example with its prediction, and the legend below.

  Args:
    predictions: From `evaluate.predict_split`, at least one.
    label_set: What the class indices mean.

  Returns:
    RGB, uint8 `[h, w, 3]`.
  """
  rows = [
    comparison(e.image, label_set.encode(e.label, e.image_id), prediction, label_set)
    for e, prediction in predictions
  ]
  return gallery(rows, label_set)


def gallery(rows: Sequence[np.ndarray], label_set: LabelSet) -> np.ndarray:
  """Stacks pictures from top to bottom, and the legend of the colours below them.

  Args:
    rows: RGB, uint8 `[h, w, 3]`, any sizes; set left-aligned on white.
    label_set: Has the colours and names.

  Returns:
    RGB, uint8 `[height, width, 3]`.
  """
  rows = [*rows, legend(label_set, max(row.shape[1] for row in rows))]
  canvas = _canvas(sum(row.shape[0] + _GAP for row in rows) - _GAP, rows[-1].shape[1])
  top = 0
  for row in rows:
    canvas[top : top + row.shape[0], : row.shape[1]] = row
    top += row.shape[0] + _GAP
  return canvas


def legend(label_set: LabelSet, width: int) -> np.ndarray:
  """Draws the colours and names of a set's classes, in as many equal columns as the width (pixels) allows.

  Returns:
    RGB, uint8 `[height, width, 3]`.
  """
  swatch = max(12, width // 100)  # height of a swatch and size of the text
  font, line = _font(swatch), round(1.6 * swatch)
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


def save_png(path: pathlib.Path, array: np.ndarray) -> None:
  """Writes uint8 `[h, w]` or `[h, w, 3]` as a PNG, whole or not at all; makes the folder.

  Raises:
    RunError: It cannot be written.
  """
  write_file(path, encode_png(array))


def _font(size: int) -> ImageFont.FreeTypeFont:
  return ImageFont.load_default(size)


def _canvas(height: int, width: int) -> np.ndarray:
  return np.full((height, width, 3), _BACKGROUND, np.uint8)


def _write(
  canvas: np.ndarray, font: ImageFont.FreeTypeFont, texts: Sequence[tuple[int, int, str, str]]
) -> np.ndarray:
  """Writes texts `(x, y, anchor, text)` onto a picture; anchors are Pillow's."""
  picture = Image.fromarray(canvas)
  draw = ImageDraw.Draw(picture)
  for x, y, anchor, text in texts:
    draw.text((x, y), text, fill=_TEXT_COLOR, font=font, anchor=anchor)
  return np.array(picture)
