"""The report's pictures: panels of one example, and data URIs that keep the page in one file."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dense_aspp_jax.analysis.figures import svg
from dense_aspp_jax.analysis.report_content import Example
from dense_aspp_jax.datasets.images import decode_image
from dense_aspp_jax.datasets.resize import resize_image, resize_label
from dense_aspp_jax.evaluation.pictures import overlay
from dense_aspp_jax.labels import IGNORE_LABEL, LabelSet

_WRONG_COLOR = (226, 52, 30)
_IGNORED_COLOR = (86, 116, 178)
_MAX_WIDTH = 768  # pixels; a panel is at most 300 wide on the page, more on a phone turned around
_MAX_ANALYSIS_WIDTH = 1600
_SVG_PIXELS_PER_INCH = 96
_JPEG_QUALITY = 85


@dataclasses.dataclass(frozen=True)
class Picture:
  """What an `<img>` needs: the file as a data URI, the text that stands for it, its size in pixels."""

  uri: str
  alt: str
  width: int
  height: int


def error_picture(image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
  """Colours the wrong pixels over the greyed image, and the ignored ones in another colour.

  Args:
    image: RGB, uint8 `[h, w, 3]`.
    label: Ground truth, uint8 `[h, w]`; `IGNORE_LABEL` is ignored.
    prediction: Class indices, uint8 `[h, w]`.

  Returns:
    RGB, uint8 `[h, w, 3]`.
  """
  ignored = label == IGNORE_LABEL
  wrong = (label != prediction) & ~ignored
  grey = 0.6 * image.mean(axis=-1, keepdims=True) + 80
  picture = np.repeat(grey, 3, axis=-1)
  picture[wrong] = 0.25 * picture[wrong] + 0.75 * np.array(_WRONG_COLOR)
  picture[ignored] = _IGNORED_COLOR
  return np.rint(picture).astype(np.uint8)


def error_colors(examples: Sequence[Example]) -> dict[str, tuple[int, int, int]]:
  """The colours of `error_picture` by meaning, those that the examples need."""
  colors = {'wrong': _WRONG_COLOR}
  if any((example.label == IGNORE_LABEL).any() for example in examples):
    colors['ignored'] = _IGNORED_COLOR
  return colors


def example_panels(example: Example, label_set: LabelSet) -> dict[str, Picture]:
  """Draws image, ground truth, prediction and errors, at one size, by caption."""
  image, label, prediction = _at_one_size(example)
  name = example.image_id
  return {
    'Image': photo(image, f'{name}: the image'),
    'Ground truth': label_map(label, label_set, f'{name}: the ground truth in the colours of the classes'),
    'Prediction': label_map(prediction, label_set, f'{name}: the prediction in the colours of the classes'),
    'Errors': photo(error_picture(image, label, prediction), f'{name}: the wrong pixels in red'),
  }


def overlay_picture(example: Example, label_set: LabelSet) -> Picture:
  """Draws the prediction over its image."""
  image, _, prediction = _at_one_size(example)
  drawn = overlay(image, prediction, label_set, alpha=0.6)
  return photo(drawn, f'{example.image_id}: the prediction laid over the image')


def _at_one_size(example: Example) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Image, ground truth and prediction at the size of the ground truth, made smaller if it is wide."""
  height, width = example.label.shape
  scale = min(1, _MAX_WIDTH / width)
  size = max(1, round(scale * height)), max(1, round(scale * width))
  return (
    resize_image(example.image, size),
    resize_label(example.label, size),
    resize_label(example.prediction, size),
  )


def photo(image: np.ndarray, alt: str) -> Picture:
  """A picture (RGB, uint8 `[h, w, 3]`) as a JPEG with colours at full resolution."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'JPEG', quality=_JPEG_QUALITY, subsampling=0, optimize=True)
  return _picture('image/jpeg', buffer.getvalue(), alt, image.shape[1], image.shape[0])


def label_map(labels: np.ndarray, label_set: LabelSet, alt: str) -> Picture:
  """Class indices (uint8 `[h, w]`) in the colours of their classes, as a PNG with a palette."""
  picture = Image.fromarray(labels)
  picture.putpalette(label_set.colors.tobytes())
  buffer = io.BytesIO()
  picture.save(buffer, 'PNG', optimize=True)
  return _picture('image/png', buffer.getvalue(), alt, labels.shape[1], labels.shape[0])


def plot(figure: Figure, alt: str) -> Picture:
  """A figure as an SVG."""
  width, height = (round(_SVG_PIXELS_PER_INCH * inches) for inches in figure.get_size_inches())
  return _picture('image/svg+xml', svg(figure), alt, width, height)


def analysis_plot(png: bytes, alt: str) -> Picture:
  """A plot that an analysis wrote, as it is."""
  height, width = decode_image(png, alt).shape[:2]
  return _picture('image/png', png, alt, width, height)


def analysis_photo(png: bytes, alt: str) -> Picture:
  """A picture with photographs that an analysis wrote: no wider than needed, as the smaller file."""
  image = decode_image(png, alt)
  height, width = image.shape[:2]
  scale = min(1, _MAX_ANALYSIS_WIDTH / width)
  smaller = photo(resize_image(image, (round(scale * height), round(scale * width))), alt)
  return min(smaller, analysis_plot(png, alt), key=lambda picture: len(picture.uri))


def _picture(media_type: str, data: bytes, alt: str, width: int, height: int) -> Picture:
  return Picture(f'data:{media_type};base64,{base64.b64encode(data).decode()}', alt, width, height)
