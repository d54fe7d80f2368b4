"""The report's pictures: panels of one example, and data URIs that keep the page in one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.datasets.images import decode_image
from dense_aspp_jax.datasets.resize import resize_image, resize_label
from dense_aspp_jax.evaluation.evaluate import BatchPredictor, predict_split
from dense_aspp_jax.evaluation.metrics import is_cityscapes
from dense_aspp_jax.evaluation.pictures import Classes, Rgb, overlay
from dense_aspp_jax.label_sets import CITYSCAPES_19
from dense_aspp_jax.labels import IGNORE_LABEL, LabelSet

WRONG_COLOR = (226, 52, 30)
IGNORED_COLOR = (86, 116, 178)
_MAX_WIDTH = 768  # pixels; a panel is at most 300 wide on the page, more on a phone in landscape
_MAX_ANALYSIS_WIDTH = 1600
_SVG_PIXELS_PER_INCH = 96
_JPEG_QUALITY = 85


class Picture(NamedTuple):
  """What an `<img>` needs: the file as a data URI, its alternative text, its size in pixels."""

  uri: str
  alt: str
  width: int
  height: int


class Example(NamedTuple):
  """One image of the gallery."""

  image_id: str
  image: Rgb
  label: Classes  # ground truth, at its own size
  prediction: Classes  # of equal size

  def pixel_accuracy(self, label_set: LabelSet) -> float | None:
    """Pixel accuracy of this image as in `Scores`, 0..1; None without a pixel that is scored."""
    valid = self.label != IGNORE_LABEL
    if is_cityscapes(label_set):
      valid &= self.label < CITYSCAPES_19.num_classes  # not void
    return float(np.mean((self.label == self.prediction)[valid])) if valid.any() else None

  def panels(self, label_set: LabelSet) -> dict[str, Picture]:
    """Image, ground truth, prediction and errors, at one size, by caption."""
    image, label, prediction = self._at_one_size()
    errors = error_picture(image, label, prediction)
    return {
      'Image': photo(image, f'{self.image_id}: the image'),
      'Ground truth': label_map(label, label_set, f'{self.image_id}: the ground truth in class colours'),
      'Prediction': label_map(prediction, label_set, f'{self.image_id}: the prediction in class colours'),
      'Errors': photo(errors, f'{self.image_id}: the wrong pixels in red'),
    }

  def overlay(self, label_set: LabelSet) -> Picture:
    """The prediction over its image."""
    image, _, prediction = self._at_one_size()
    alt = f'{self.image_id}: the prediction overlaid on the image'
    return photo(overlay(image, prediction, label_set, alpha=0.6), alt)

  def _at_one_size(self) -> tuple[Rgb, Classes, Classes]:
    """Image, ground truth and prediction at the size of the ground truth, made smaller if it is wide."""
    size = _at_most(self.label.shape, _MAX_WIDTH)
    return resize_image(self.image, size), resize_label(self.label, size), resize_label(self.prediction, size)


def predict_examples(
  predictor: BatchPredictor, split: Sequence[CachedExample], label_set: LabelSet, count: int, batch_size: int
) -> list[Example]:
  """Predicts up to `count` images, evenly spread over a split.

  With the `batch_size` of the evaluation no new compilation is needed.
  """
  count = min(count, len(split))
  chosen = [split[(2 * i + 1) * len(split) // (2 * count)] for i in range(count)]
  return [
    Example(e.image_id, e.image, label_set.encode(e.label, e.image_id), prediction)
    for e, prediction in predict_split(predictor, chosen, batch_size)
  ]


def error_picture(image: Rgb, label: Classes, prediction: Classes) -> Rgb:
  """Colours the wrong and the ignored pixels over the image turned grey."""
  ignored = label == IGNORE_LABEL
  wrong = (label != prediction) & ~ignored
  picture = np.repeat(0.6 * image.mean(axis=-1, keepdims=True) + 80, 3, axis=-1)
  picture[wrong] = 0.25 * picture[wrong] + 0.75 * np.array(WRONG_COLOR)
  picture[ignored] = IGNORED_COLOR
  return np.rint(picture).astype(np.uint8)


def photo(image: Rgb, alt: str) -> Picture:
  """A picture as a JPEG with colours at full resolution."""
  return _encoded(Image.fromarray(image), alt, 'jpeg', quality=_JPEG_QUALITY, subsampling=0)


def label_map(labels: Classes, label_set: LabelSet, alt: str) -> Picture:
  """Class indices in the colours of their classes, as a PNG with a palette."""
  picture = Image.fromarray(labels)
  picture.putpalette(label_set.colors.tobytes())
  return _encoded(picture, alt, 'png')


def plot(figure: Figure, alt: str) -> Picture:
  """A figure as an SVG, the same for the same figure; text is drawn as paths and needs no font."""
  buffer = io.BytesIO()
  with matplotlib.rc_context({'svg.fonttype': 'path', 'svg.hashsalt': 'report'}):
    figure.savefig(buffer, format='svg', metadata={'Date': None})
  width, height = (round(_SVG_PIXELS_PER_INCH * inches) for inches in figure.get_size_inches())
  return Picture(_data_uri('svg+xml', buffer.getvalue()), alt, width, height)


def analysis_plot(png: bytes, alt: str) -> Picture:
  """A plot that an analysis wrote, as it is."""
  height, width = decode_image(png, alt).shape[:2]
  return Picture(_data_uri('png', png), alt, width, height)


def analysis_photo(png: bytes, alt: str) -> Picture:
  """A picture with photographs that an analysis wrote: as it is or as a JPEG, whichever is smaller."""
  image = decode_image(png, alt)
  smaller = photo(resize_image(image, _at_most(image.shape[:2], _MAX_ANALYSIS_WIDTH)), alt)
  return min(smaller, analysis_plot(png, alt), key=lambda picture: len(picture.uri))


def _at_most(size: tuple[int, int], max_width: int) -> tuple[int, int]:
  scale = min(1, max_width / size[1])
  return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def _encoded(image: Image.Image, alt: str, media_type: str, **options: int) -> Picture:
  buffer = io.BytesIO()
  image.save(buffer, media_type, optimize=True, **options)
  return Picture(_data_uri(media_type, buffer.getvalue()), alt, *image.size)


def _data_uri(media_type: str, data: bytes) -> str:
  return f'data:image/{media_type};base64,{base64.b64encode(data).decode()}'
