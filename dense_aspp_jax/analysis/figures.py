"""What all Matplotlib figures share."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from dense_aspp_jax.evaluation.pictures import save_png

_MOST_NAME_BYTES = 240  # with a suffix, what file systems take
MOST_NUMBERED = 40  # classes; beyond, the numbers in the cells would touch


def save_figure(path: pathlib.Path, figure: Figure) -> None:
  """Draws a figure, without a display, as a PNG; see `save_png`."""
  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  save_png(path, np.asarray(canvas.buffer_rgba())[..., :3])


def literal(names: Iterable[str]) -> list[str]:
  """Escapes dollar signs, between which Matplotlib would read a formula."""
  return [name.replace('$', r'\$') for name in names]


def picture_name(kind: str, number: int, image_id: str) -> str:
  """File name, without suffix, of the picture of an image; the number tells a/b_c and a_b/c apart."""
  name = f'{kind}_{number}_{image_id.replace("/", "_")}'
  if len(encoded := os.fsencode(name)) <= _MOST_NAME_BYTES:
    return name
  return encoded[:_MOST_NAME_BYTES].decode(errors='ignore')


def draw_matrix(
  axes: Axes, values: np.ndarray, class_names: Sequence[str], text: Callable[[float], str], **colors: Any
) -> AxesImage:
  """Draws a class-by-class matrix, `[k, k]`, in the colours of 'cmap', 'vmin' and 'vmax' of `imshow`.

  Unless there are too many classes, each cell has the `text` of its value, in white from half of vmax on.
  """
  image = axes.imshow(values, interpolation='none', **colors)
  is_small = len(class_names) <= MOST_NUMBERED
  ticks, labels, size = range(len(class_names)), literal(class_names), 9 if is_small else 6
  axes.set_xticks(ticks, labels, rotation=45, ha='right', rotation_mode='anchor', fontsize=size)
  axes.set_yticks(ticks, labels, fontsize=size)
  axes.tick_params(length=0)
  axes.spines[:].set_visible(False)
  for (row, column), value in np.ndenumerate(values) if is_small else ():
    color = 'white' if abs(value) > colors['vmax'] / 2 else 'black'
    axes.text(column, row, text(value), ha='center', va='center', fontsize=7.5, color=color)
  return image
