"""Decoding and encoding of images and label maps; Pillow and NumPy only.

Deliberately strict: every PNG chunk is verified (`png.py`), formats are recognized by their first bytes
(`image_formats.py`), a palette of label ids is never turned into grey values, and anything doubtful is an
`InputError`. A file that is whole is never called damaged.
"""

from __future__ import annotations

import io
import pathlib

import numpy as np
from PIL import Image

from dense_aspp_jax.datasets.image_formats import (
  SIDEWAYS,
  UPRIGHT,
  Opened,
  check_header,
  explained_memory,
  file_format,
  open_image,
)
from dense_aspp_jax.datasets.png import check_size
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import shown, what_it_is
from dense_aspp_jax.labels import LabelSet, count_ids

# Lower case, each the only list of its kind.
IMAGE_EXTENSIONS = ('.png', '.jpg', '.jpeg', '.jpe', '.jfif', '.tif', '.tiff', '.webp', '.bmp', '.gif')
LABEL_EXTENSIONS = ('.png', '.tif', '.tiff', '.bmp', '.gif', '.npy')
_LABEL_FORMATS = 'PNG, TIFF, BMP, GIF or .npy'
_NPY_SIGNATURE = b'\x93NUMPY'
_IGNORED_ID = 255
# Pillow's modes that may hold ids -> how they are called in messages.
_CHANNELS = {
  '1': 'grey', 'L': 'grey', 'I;16': 'grey', 'I;16B': 'grey', 'I': 'grey', 'P': 'palette',
  'LA': 'grey with alpha', 'RGB': 'RGB', 'RGBA': 'RGB with alpha',
}  # fmt: skip
_COLORS_SHOWN = 5  # in a message


def check_image_header(path: pathlib.Path) -> tuple[int, int]:
  """Checks by its beginning whether a file is an image that `decode_image` may take.

  Decodes nothing, whatever size the header claims; damage further on is not found.

  Returns:
    Height and width in pixels, as stored.

  Raises:
    InputError: Unreadable, no image, a damaged header, or more than `MAX_PIXELS`.
  """
  where = shown(path)
  if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
    raise InputError(f'{where}: not a file')
  try:
    with path.open('rb') as file:
      return check_header(file, where)
  except OSError as error:
    raise InputError(f'{where}: cannot be read ({error.strerror or error})') from error


def decode_image(
  data: bytes,
  where: str,
  as_stored: bool | None = False,
  label_size: tuple[int, ...] | None = None,
) -> np.ndarray:
  """Decodes a PNG, JPEG, TIFF, WebP, BMP or GIF (of several pictures the first) to 8-bit RGB.

  Grey and palette images become RGB; an alpha channel is dropped, the colour below it kept; CMYK is
  converted by Pillow (no colour profile); of 16-bit samples the upper 8 bits are taken (`value >> 8`).
  The EXIF orientation is applied, so the array is upright as viewers show it; EXIF data that cannot be
  read counts as upright.

  Args:
    data: The file's bytes.
    where: Path or name of the image, for the message.
    as_stored: Whether to ignore the EXIF orientation; None: an image that it would turn is refused, because
      its label map may have been drawn on either picture.
    label_size: Height and width of the image's label map. If only the picture as stored or only the turned
      one has this size, that one is returned, whatever `as_stored` says.

  Returns:
    RGB, uint8 `[h, w, 3]`.

  Raises:
    InputError: None of these formats, truncated, damaged, of samples without a fixed range (float, 32-bit),
      more than `MAX_PIXELS`, or not upright.
    RunError: Too little memory.
  """
  opened = open_image(data, where)
  image, orientation = opened.image, opened.orientation
  stored = (image.height, image.width)
  turned = stored[::-1] if orientation in SIDEWAYS else stored
  decided = stored != turned and label_size in (stored, turned)
  if label_size == stored if decided else as_stored:
    orientation = 1
  if as_stored is None and not decided and orientation in UPRIGHT:
    raise InputError(
      f'{where}: {image.height}x{image.width} pixels (height x width) with EXIF orientation {orientation}: '
      'viewers turn it, and the sizes do not tell whether its label map was drawn on the turned image. Say '
      '"orientation": "applied" or "as_stored" in labels.json, or turn the pixels and drop the tag '
      '(`mogrify -auto-orient` does)'
    )
  with explained_memory(where):
    rgb = to_rgb(opened, where)
    return np.array(rgb.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else rgb)


def decode_label(data: bytes, where: str, minus_one: bool = False) -> np.ndarray:
  """Decodes label ids: PNG, TIFF, BMP or GIF of one picture, or an integer array [h, w] in a .npy file.

  Grey values are ids as stored at any bit depth; a palette image's ids are its indices, whatever
  the colours; three equal 8-bit channels are one, and opaque alpha is dropped. An orientation is not applied.

  Args:
    data: The file's bytes.
    where: Its path or name, for messages.
    minus_one: Whether -1 (65535 without sign) may occur in ids of more than 8 bits; it becomes 255.

  Returns:
    Label ids, uint8 `[h, w]`.

  Raises:
    InputError: None of these formats, truncated, damaged, a picture in colours, transparent, an id outside
      0..255, or more than `MAX_PIXELS`.
    RunError: Too little memory.
  """
  with explained_memory(where):
    if data.startswith(_NPY_SIGNATURE):
      ids = _read_npy(data, where)
      what = f'.npy array of {ids.dtype}'
    else:
      opened = _open_label(data, where)
      ids, what = _single_channel(opened, where), _describe(opened)
    if minus_one and ids.dtype != np.uint8:
      ids = np.where(np.isin(ids, (-1, 65535)), _IGNORED_ID, ids)
    if ids.dtype != np.uint8 and (wrong := (ids < 0) | (ids > 255)).any():
      raise InputError(
        f'{where}: label ids {count_ids(ids[wrong])} in a {what}; expected 0..255. Write the ids again as '
        f'8-bit grey. -1 and 65535 are read as {_IGNORED_ID} where the label set lists that in ignore_ids'
      )
    return np.array(ids, np.uint8)


def decode_label_ids(data: bytes, label_set: LabelSet, where: str) -> np.ndarray:
  """As `decode_label`, or, where the set has `label_colors`, from the colours of the classes.

  Each colour must be exactly one of `LabelSet.id_of_color`. Where the set ignores id 255, wider integers may
  have -1 (or 65535, its unsigned form) for it.

  Raises:
    InputError: As `decode_label`; with `label_colors`, anything but 8-bit RGB or a palette, or unknown
      colours: how many pixels, where the first of them is, and which class is nearest.
    RunError: Too little memory.
  """
  if not label_set.label_colors:
    return decode_label(data, where, minus_one=_IGNORED_ID in label_set.ignore_ids)
  with explained_memory(where):
    if data.startswith(_NPY_SIGNATURE):
      raise InputError(
        f'{where}: a .npy array; expected a picture in the colours of the classes, as label set '
        f'{label_set.name!r} says (label_colors). Save it so, or correct the label set'
      )
    opened = _open_label(data, where)
    if opened.image.mode not in ('RGB', 'RGBA', 'P') or opened.bits > 8:
      raise InputError(
        f'{where}: {_describe(opened)}; expected 8-bit RGB or a palette in the colours of the classes, as '
        f'label set {label_set.name!r} says (label_colors). Save it so, or correct the label set'
      )
    if opened.orientation in UPRIGHT:
      raise InputError(
        f'{where}: {_describe(opened)} with EXIF orientation {opened.orientation}; expected a label without '
        'one, which fits its image as stored. Drop the tag, and see that the label fits'
      )
    if opened.image.mode == 'RGBA':
      _require_opaque(np.asarray(opened.image)[..., 3], opened, where)
    return _ids_of(np.asarray(to_rgb(opened, where)), label_set, where)


def encode_png(array: np.ndarray, level: int = 3) -> bytes:
  """Encodes uint8 `[h, w]` (grey values or label ids) or `[h, w, 3]` (RGB) as PNG.

  Args:
    array: The pixels.
    level: Of compression, 0 to 9. Pillow's default, 6, takes three times as long as 3 for 1 % less.
  """
  buffer = io.BytesIO()
  Image.fromarray(np.ascontiguousarray(array)).save(buffer, 'PNG', compress_level=level)
  return buffer.getvalue()


def to_rgb(opened: Opened, where: str) -> Image.Image:
  """Converts a picture to 8-bit RGB as `decode_image` says; does not turn it.

  Raises:
    InputError: Samples without a fixed range, a mode that cannot be converted, or indices without a colour.
  """
  image, colors = opened.image, opened.num_colors
  if image.mode == 'P' and (highest := np.asarray(image).max()) >= colors:
    raise InputError(
      f'{where}: damaged {opened.format}, colour {highest} of a palette of {colors}; get the file again'
    )
  if image.mode.startswith('I;16'):  # Pillow's own conversion would clip at 255
    image = Image.fromarray((np.asarray(image) >> (opened.bits - 8)).astype(np.uint8))
  elif image.mode in ('I', 'F'):
    raise InputError(
      f'{where}: {_describe(opened)}, whose samples have no fixed range; expected unsigned samples of up to '
      '16 bits. Convert it so that 0 is black and the highest value is white'
    )
  image.info.pop('transparency', None)  # the colour below it is kept
  try:
    return image.convert('RGB')
  except (ValueError, ImportError) as error:  # a mode that cannot be converted, or LAB without littleCMS
    raise InputError(f'{where}: {_describe(opened)}; convert it to RGB') from error


def _open_label(data: bytes, where: str) -> Opened:
  """Opens a picture of label ids or colours. Raises InputError where it is doubtful which pixels it has."""
  name = file_format(data)
  if name is None:
    raise InputError(
      f'{where}: not a {_LABEL_FORMATS} file ({what_it_is(data, "convert it to one of them")})'
    )
  if name in ('JPEG', 'WEBP'):
    alters = 'alters' if name == 'JPEG' else 'may alter'
    raise InputError(
      f'{where}: a {name}, which {alters} label ids; expected {_LABEL_FORMATS}, saved so from the start'
    )
  opened = open_image(data, where)
  if opened.doubt:
    raise InputError(f'{where}: {_describe(opened)} {opened.doubt}; save the label as a plain PNG')
  return opened


def _single_channel(opened: Opened, where: str) -> np.ndarray:
  """Ids [h, w] of any integer type. Raises InputError for colours and whatever else may not be ids."""
  image, what = opened.image, _describe(opened)
  if image.mode not in _CHANNELS:
    raise InputError(f'{where}: {what}; expected label ids as 8-bit grey')
  samples = np.asarray(image)
  if samples.ndim == 2:
    if image.mode == 'L' and opened.bits in (2, 4):
      return samples // (255 // (2**opened.bits - 1))  # Pillow stretches these grey values to 0..255
    if opened.format == 'GIF' and image.mode == 'P':
      used = np.unique(samples)
      palette = np.array(image.getpalette()).reshape(-1, 3)
      colors = palette[used.clip(max=len(palette) - 1)]
      if (colors == colors[:, :1]).all() and (colors[:, 0] != used).any():
        raise InputError(
          f'{where}: {what} with greys {colors[:, 0].tolist()} at indices {used.tolist()}; it is not clear '
          'which are the ids. Save the label as a plain PNG'
        )
    return samples
  alpha = samples[..., 3:] if image.mode == 'RGBA' else samples[..., 1:] if image.mode == 'LA' else None
  colors = samples[..., :3] if image.mode != 'LA' else samples[..., :1]
  if opened.bits > 8:  # Pillow has cut them to their upper half
    raise InputError(f'{where}: {what}; expected label ids in a single channel. Write them as 8-bit grey')
  if (colors != colors[..., :1]).any():
    raise InputError(
      f'{where}: {what}; expected label ids in a single channel (grey or palette). Colours are not ids: '
      'convert the picture with the colour table it was drawn with, or, if it has the colours of the '
      'classes, say "label_colors": true in the label set'
    )
  if alpha is not None:
    _require_opaque(alpha, opened, where)
  return colors[..., 0]


def _require_opaque(alpha: np.ndarray, opened: Opened, where: str) -> None:
  if transparent := int((alpha != 255).sum()):
    raise InputError(
      f'{where}: {_describe(opened)}, {transparent} of them transparent; expected opaque ones. Save the '
      'label without alpha, with an id or a colour for these'
    )


def _describe(opened: Opened) -> str:
  """Such as '8-bit RGB PNG of 2x3 pixels'."""
  image = opened.image
  channels = _CHANNELS.get(image.mode, 'float' if image.mode == 'F' else image.mode)
  return f'{opened.bits}-bit {channels} {opened.format} of {image.height}x{image.width} pixels'


def _read_npy(data: bytes, where: str) -> np.ndarray:
  """Integers [h, w] from a .npy file, which is not unpickled; truth values are 0 and 1."""
  file = io.BytesIO(data)
  try:
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, is_fortran, dtype = read_header[version](file)
  except Exception as error:  # NumPy evaluates the header as Python literals
    raise InputError(f'{where}: damaged .npy header ({error}); save the array again') from error
  if len(shape) != 2 or min(shape) < 0 or dtype.kind not in 'iub':
    raise InputError(
      f'{where}: a .npy array of {dtype} {list(shape)}; expected integers [height, width]. Save the ids so'
    )
  check_size(shape[1], shape[0], where)
  stored = np.uint8 if dtype.kind == 'b' else dtype
  if (found := len(data) - file.tell()) < (expected := shape[0] * shape[1] * np.dtype(stored).itemsize):
    raise InputError(f'{where}: truncated .npy, {found} of {expected} bytes of ids; get the file again')
  ids = np.frombuffer(data, stored, shape[0] * shape[1], file.tell())
  ids = ids.reshape(shape, order='F' if is_fortran else 'C')
  return (ids != 0).astype(np.uint8) if dtype.kind == 'b' else ids


def _ids_of(rgb: np.ndarray, label_set: LabelSet, where: str) -> np.ndarray:
  known, ids = zip(*sorted((_codes(np.array(c)), i) for c, i in label_set.id_of_color.items()), strict=True)
  codes = _codes(rgb.astype(np.int32))
  positions = np.searchsorted(known, codes).clip(max=len(known) - 1)
  unknown = np.array(known)[positions] != codes
  if not unknown.any():
    return np.array(ids, np.uint8)[positions]
  found, first, counts = np.unique(codes[unknown], return_index=True, return_counts=True)
  texts = []
  for i in np.argsort(-counts, kind='stable')[:_COLORS_SHOWN]:
    row, column = divmod(int(np.flatnonzero(unknown)[first[i]]), rgb.shape[1])
    color = rgb[row, column].astype(np.int32)
    closest = min(label_set.id_of_color, key=lambda c: ((color - c) ** 2).sum())
    nearest = next((c.name for c in label_set.classes if label_set.id_of_color[closest] in c.ids), 'ignored')
    texts.append(
      f'{tuple(color.tolist())} ({counts[i]} pixels, the first at row {row}, column {column}; the nearest '
      f'class is {nearest!r}, {closest})'
    )
  more = f' and {len(found) - _COLORS_SHOWN} more' if len(found) > _COLORS_SHOWN else ''
  raise InputError(
    f'{where}: colours of no class of label set {label_set.name!r}: {", ".join(texts)}{more}; expected the '
    'exact colours of the classes. Draw the label without smoothing, or correct the label set'
  )


def _codes(colors: np.ndarray) -> np.ndarray:
  """One number a colour, `[...]` from `[..., 3]`."""
  return (colors[..., 0] << 16) | (colors[..., 1] << 8) | colors[..., 2]
