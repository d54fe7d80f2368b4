"""Image files opened with Pillow: the format is known by its first bytes, and doubtful files are refused.

Of animations and files with several pages, this is the first picture. Pillow itself misreads or makes up some
pictures; what is known of that is refused here, and in `png.py`.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from PIL import (
  BmpImagePlugin,
  GifImagePlugin,
  Image,
  JpegImagePlugin,
  PngImagePlugin,
  TiffImagePlugin,
  WebPImagePlugin,
)

from dense_aspp_jax.datasets.png import (
  MAX_PIXELS,
  PNG_SIGNATURE,
  check_png,
  check_size,
  without_metadata,
)
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.files import SIGNATURE_BYTES, what_it_is

FORMATS = 'PNG, JPEG, TIFF, WebP, BMP or GIF'
_PNG, _JPEG = PngImagePlugin.PngImageFile, JpegImagePlugin.JpegImageFile
_BMP, _GIF = BmpImagePlugin.BmpImageFile, GifImagePlugin.GifImageFile
_TIFF, _WEBP = TiffImagePlugin.TiffImageFile, WebPImagePlugin.WebPImageFile
_PLUGINS = {
  PNG_SIGNATURE: _PNG,
  b'\xff\xd8\xff': _JPEG,
  b'II*\0': _TIFF,
  b'MM\0*': _TIFF,
  b'II+\0': _TIFF,  # BigTIFF
  b'MM\0+': _TIFF,
  b'GIF87a': _GIF,
  b'GIF89a': _GIF,
  b'BM': _BMP,
}
_BITS_PER_SAMPLE, _PHOTOMETRIC, _TILE_WIDTH, _TILE_LENGTH = 258, 262, 322, 323  # tags of TIFF
_SAMPLES_PER_PIXEL, _MOST_BANDS = 277, 6  # Pillow opens no more
_SAMPLE_FORMAT, _UNSIGNED = 339, 1
_SUBFILE_TYPE, _REDUCED = 254, 1
_PLANAR, _SEPARATE = 284, 2
_LOSSY = ('jpeg', 'tiff_jpeg', 'webp', 'tiff_sgilog', 'tiff_sgilog24', 'tiff_thunderscan')  # Pillow's names
_ORIENTATION_TAG = 0x0112
_OUT_OF_MEMORY = ('out of memory', 'decoder error -9')  # Pillow's words for it
# EXIF orientation -> what makes the picture upright (EXIF 2.3, table 6).
UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
_TURNED_BACK = UPRIGHT | {6: UPRIGHT[8], 8: UPRIGHT[6]}
SIDEWAYS = range(5, 9)  # EXIF orientations that exchange height and width


class Opened(NamedTuple):
  """A picture as it is stored.

  Attributes:
    image: With its pixels, not turned.
    format: Such as 'PNG'.
    bits: Per sample, as stored; Pillow's image may have others.
    orientation: As EXIF has it; 1: upright, or not known.
    num_colors: In the palette; an index may be higher.
    doubt: Why other programs may see another picture, for label maps; '': nothing is known.
  """

  image: Image.Image
  format: str
  bits: int
  orientation: int
  num_colors: int
  doubt: str


def check_header(file: BinaryIO, where: str) -> tuple[int, int]:
  """Checks whether a file begins as an image of at most `MAX_PIXELS`, and decodes nothing.

  Returns:
    Height and width in pixels, as stored.

  Raises:
    InputError: In none of `FORMATS`, a damaged header, or too large.
    OSError: It cannot be read.
  """
  plugin = _find_plugin(file.read(SIGNATURE_BYTES), where)
  file.seek(0)
  with _explained(plugin, where, passed=OSError):
    if plugin is _TIFF:
      _check_bands(file, where)
    image = plugin(file)
    check_size(*image.size, where)
    turned = plugin is _TIFF and image.tag_v2.get(_ORIENTATION_TAG) in (5, 6, 7, 8)  # that size is of upright
  return image.size if turned else image.size[::-1]


def open_image(data: bytes, where: str) -> Opened:
  """Opens an image and loads its pixels.

  Raises:
    InputError: In none of `FORMATS`, truncated, damaged, of a kind that Pillow does not read, or more than
      `MAX_PIXELS`.
    RunError: Too little memory.
  """
  plugin = _find_plugin(data, where)
  with explained_memory(where):
    return _open_png(data, where) if plugin is _PNG else _open(plugin, data, where)


def file_format(data: bytes) -> str | None:
  """The name of the format by the first bytes, such as 'PNG'; None: none of `FORMATS`."""
  if data.startswith(b'RIFF') and data[8:12] == b'WEBP':
    return _WEBP.format
  return next((plugin.format for start, plugin in _PLUGINS.items() if data.startswith(start)), None)


def _find_plugin(data: bytes, where: str) -> type[Image.Image]:
  if (name := file_format(data)) is None:
    raise InputError(f'{where}: not a {FORMATS} ({what_it_is(data, "convert it to one of them")})')
  return next(plugin for plugin in (*_PLUGINS.values(), _WEBP) if plugin.format == name)


@contextlib.contextmanager
def explained_memory(where: str) -> Iterator[None]:
  """Raises RunError with `where` for a MemoryError: the file is not to blame."""
  try:
    yield
  except MemoryError as error:
    raise _too_little_memory(where) from error


def _too_little_memory(where: str) -> RunError:
  return RunError(f'{where}: too little memory to decode it; free some, or make the image smaller')


@contextlib.contextmanager
def _explained(plugin: type[Image.Image], where: str, passed: type[Exception] = InputError) -> Iterator[None]:
  """Whatever Pillow raises, as one of our errors; what the system raises passes if its type is `passed`."""
  try:
    yield
  except (InputError, RunError):
    raise
  except Image.DecompressionBombError as error:
    raise InputError(f'{where}: {error}; expected at most {MAX_PIXELS:,} pixels. Make it smaller') from error
  except Exception as error:  # Pillow's decoders raise whatever the damage leads to
    if isinstance(error, passed) and getattr(error, 'errno', None) is not None:
      raise
    if isinstance(error, MemoryError) or str(error).startswith(_OUT_OF_MEMORY):
      raise _too_little_memory(where) from error
    if str(error).endswith('not available') or (plugin is _WEBP and not WebPImagePlugin.SUPPORTED):
      raise InputError(
        f'{where}: this installation of Pillow lacks the decoder ({error}); install Pillow with pip, or save '
        'the image as PNG'
      ) from error
    raise InputError(
      f'{where}: damaged or truncated {plugin.format}, or of a kind that Pillow does not read ({error}); get '
      'the file again, or, if a viewer shows it whole, save it as PNG'
    ) from error


def _open_png(data: bytes, where: str) -> Opened:
  header = check_png(data, where)
  try:
    opened = _open(_PNG, without_metadata(data, keep_orientation=True), where)
  except InputError:  # where the metadata are not the reason, it is raised once more
    opened = _open(_PNG, without_metadata(data, keep_orientation=False), where)
  return opened._replace(bits=header.bit_depth, num_colors=header.num_colors)


def _open(plugin: type[Image.Image], data: bytes, where: str) -> Opened:
  """Opens with the plugin itself: no guessing of formats, and the size is checked before decoding."""
  with _explained(plugin, where):
    if plugin is _TIFF:
      _check_bands(io.BytesIO(data), where)
    image = plugin(io.BytesIO(data))
    check_size(*image.size, where)
    bits, doubts, orientation = 8, [], 1
    if plugin is _TIFF:
      orientation = _read_orientation(image)
      bits = _check_tiff(image, where)
      doubts = _doubts_of_tiff(image, orientation)
    elif plugin is _BMP:
      bits = _check_bmp(image, data, where)
    elif plugin is _GIF:
      doubts = ['whose first picture does not fill it'] * (image.tile[0].extents != (0, 0, *image.size))
      doubts += ['with several pictures'] * _has_several(image)
    image.load()
    if plugin is not _TIFF:
      orientation = _read_orientation(image)
    elif orientation in UPRIGHT:  # Pillow has turned it
      image = image.transpose(_TURNED_BACK[orientation])
    colors = len(image.getpalette()) // 3 if image.mode == 'P' else 0
  return Opened(image, plugin.format, bits, orientation, colors, ' and '.join(doubts))


def _check_bands(file: BinaryIO, where: str) -> None:
  """Raises InputError for a TIFF of bands that are no colours, which Pillow cannot open."""
  try:
    header = file.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(header + (file.read(8) if header[2] == 43 else b''))
    file.seek(tags.next)
    tags.load(file)
    bands, kind = int(tags.get(_SAMPLES_PER_PIXEL, 1)), int(tags.get(_SAMPLE_FORMAT, (1,))[0])
    bits, photometric = int(tags.get(_BITS_PER_SAMPLE, (1,))[0]), tags.get(_PHOTOMETRIC)
  except OSError:
    raise
  except Exception:  # damage, of which the plugin says more
    return
  finally:
    file.seek(0)
  if (bands > 1 and kind != _UNSIGNED) or bands > _MOST_BANDS or (bands > 2 and photometric in (0, 1)):
    names = {_UNSIGNED: 'unsigned', 2: 'signed', 3: 'float'}
    raise InputError(
      f'{where}: a TIFF with {bands} bands of {bits} bits, {names.get(kind, "of an unknown kind")}; expected '
      'grey, or bands declared as RGB, unsigned and of up to 16 bits. Choose three, such as with '
      '`gdal_translate -b 1 -b 2 -b 3 -co PHOTOMETRIC=RGB`'
    )


def _check_tiff(image: TiffImagePlugin.TiffImageFile, where: str) -> int:
  """Bits per sample. Raises InputError for what Pillow misreads, and for tiles too large or missing."""
  tags = image.tag_v2
  check_size(*(max(1, tags.get(tag, 1)) for tag in (_TILE_WIDTH, _TILE_LENGTH)), where)
  if not image.use_load_libtiff:  # it makes black what is missing
    planes = len(image.getbands()) if tags.get(_PLANAR) == _SEPARATE else 1
    covered, samples = 0, image.width * image.height * planes
    for tile in image.tile:
      left, top, right, bottom = tile.extents
      covered += (right - left) * (bottom - top)
    if covered < samples:
      raise InputError(f'{where}: truncated TIFF, {covered} of {samples} samples; get the file again')
  bits = max(tags.get(_BITS_PER_SAMPLE, (1,)))
  if bits <= 8 and tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0] != _UNSIGNED:  # it takes -1 for 255
    raise InputError(f'{where}: a TIFF of signed {bits}-bit samples; save it with unsigned ones, or as PNG')
  if bits > 8 and tags.get(_PHOTOMETRIC) == 0:  # it inverts up to 8 bits alone
    raise InputError(
      f'{where}: a {bits}-bit TIFF that stores white as 0; store black as 0, or save it as PNG'
    )
  return bits


def _doubts_of_tiff(image: TiffImagePlugin.TiffImageFile, orientation: int) -> list[str]:
  inverted = image.mode in ('1', 'L') and image.tag_v2.get(_PHOTOMETRIC, 0) == 0
  compression = image.info.get('compression')
  return (
    ['that stores white as 0'] * inverted
    + [f'compressed with loss ({compression})'] * (compression in _LOSSY)
    + [f'with orientation {orientation}'] * (orientation in UPRIGHT)
    + ['with several pictures'] * _has_several(image)
  )


def _check_bmp(image: BmpImagePlugin.BmpImageFile, data: bytes, where: str) -> int:
  """Bits per pixel up to 8. Pillow takes a palette of greys for as many bits as its greys need."""
  core_header = int.from_bytes(data[14:18], 'little') == 12
  bits = int.from_bytes(data[24:26] if core_header else data[28:30], 'little')
  if bits != {'1': 1, 'L': 8}.get(image.mode, bits):
    raise InputError(f'{where}: a BMP of {bits} bits with few greys, which Pillow misreads; save it as PNG')
  return min(bits, 8)


def _has_several(image: Image.Image) -> bool:
  """Whether a TIFF or GIF has more than one picture; smaller copies of the first do not count."""
  try:
    if isinstance(image, _TIFF):
      for index in itertools.count(1):
        image.seek(index)
        if not image.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED:
          return True
    return isinstance(image, _GIF) and image.is_animated
  except EOFError:
    return False
  except Exception:  # there is one, and it is damaged
    return True
  finally:
    if isinstance(image, _TIFF):
      image.seek(0)


def _read_orientation(image: Image.Image) -> int:
  try:
    orientation = image.getexif().get(_ORIENTATION_TAG, 1)
  except Exception:  # EXIF is a hint: that it is broken does not make the pixels wrong
    return 1
  return orientation if isinstance(orientation, int) else 1
