"""Label maps that are drawn in the colours of their classes, decoded to label ids."""

from __future__ import annotations

import numpy as np

from dense_aspp_jax.datasets.images import check_png, decode_image, decode_label
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import LabelSet

_RGB = (8, 2)  # bit depth and colour type of a PNG
_COLORS_SHOWN = 5


def decode_label_ids(data: bytes, label_set: LabelSet, where: str) -> np.ndarray:
  """Decodes a label PNG: of label ids, or, where the label set says so, in the colours of its classes.

  Colours are never guessed: each must be exactly that of a class, or black where ids are ignored.

  Args:
    data: Encoded bytes.
    label_set: Says which of the two it is (`label_colors`), and the colours.
    where: Path or name of the label, for the message.

  Returns:
    Label ids, uint8 `[h, w]`.

  Raises:
    InputError: As `decode_label`; with `label_colors`, anything but an 8-bit RGB PNG, or unknown colours:
      how many pixels, where the first of them is, and which class is nearest.
  """
  if not label_set.label_colors:
    return decode_label(data, where)
  header = check_png(data, where)
  if (header.bit_depth, header.color_type) != _RGB:
    raise InputError(
      f'{where}: {header.description} PNG of {header.width}x{header.height} pixels; expected 8-bit RGB in '
      f'the colours of the classes, as label set {label_set.name!r} says (label_colors). Save it so, without '
      'alpha, or correct the label set'
    )
  return _ids_of(decode_image(data, where, upright_only=True), label_set, where)


def _ids_of(rgb: np.ndarray, label_set: LabelSet, where: str) -> np.ndarray:
  colors = np.array(list(label_set.id_of_color), np.int32)
  ids = np.array(list(label_set.id_of_color.values()), np.uint8)
  order = np.argsort(_codes(colors))
  known = _codes(colors)[order]
  codes = _codes(rgb.astype(np.int32))
  positions = np.searchsorted(known, codes).clip(max=len(known) - 1)
  unknown = known[positions] != codes
  if unknown.any():
    found, first, counts = np.unique(codes[unknown], return_index=True, return_counts=True)
    texts = []
    for i in np.argsort(-counts, kind='stable')[:_COLORS_SHOWN]:
      row, column = divmod(int(np.flatnonzero(unknown)[first[i]]), rgb.shape[1])
      color = rgb[row, column].astype(np.int32)
      nearest = label_set.classes[int(np.argmin([((color - c.color) ** 2).sum() for c in label_set.classes]))]
      texts.append(
        f'{tuple(color.tolist())} ({counts[i]} pixels, the first at row {row}, column {column}; the nearest '
        f'class is {nearest.name!r}, {nearest.color})'
      )
    more = f' and {len(found) - _COLORS_SHOWN} more' if len(found) > _COLORS_SHOWN else ''
    raise InputError(
      f'{where}: colours of no class of label set {label_set.name!r}: {", ".join(texts)}{more}; expected the '
      'exact colours of the classes. Draw the label without smoothing, or correct the label set'
    )
  return ids[order][positions]


def _codes(colors: np.ndarray) -> np.ndarray:
  """One number a colour, int32 `[...]` from `[..., 3]`."""
  return (colors[..., 0] << 16) | (colors[..., 1] << 8) | colors[..., 2]
