"""What all matplotlib figures share."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def render(figure: Figure) -> np.ndarray:
  """Draws a figure, without a display: RGB, uint8 `[h, w, 3]`."""
  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def literal(names: Sequence[str]) -> list[str]:
  """Names as Matplotlib writes them letter by letter: between two dollars it would read a formula."""
  return [name.replace('$', r'\$') for name in names]


def svg(figure: Figure) -> bytes:
  """A figure as an SVG file, the same bytes for the same figure; letters are drawn, no font is needed."""
  buffer = io.BytesIO()
  with matplotlib.rc_context({'svg.fonttype': 'path', 'svg.hashsalt': 'report'}):
    figure.savefig(buffer, format='svg', metadata={'Date': None})
  return buffer.getvalue()
