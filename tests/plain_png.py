"""PNG written and read with zlib and NumPy alone, to compare decoders with. Small images; no speed."""

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

SIGNATURE = b'\x89PNG\r\n\x1a\n'
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}
BIT_DEPTHS = {
  GREY: (1, 2, 4, 8, 16),
  RGB: (8, 16),
  PALETTE: (1, 2, 4, 8),
  GREY_ALPHA: (8, 16),
  RGB_ALPHA: (8, 16),
}
# First column and row, and their steps, of the passes of an interlaced image (Adam7).
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class Picture(NamedTuple):
  """Samples as stored."""

  samples: np.ndarray  # uint16 [h, w, channels]
  bit_depth: int
  color_type: int
  palette: np.ndarray  # uint8 [n, 3], empty where there is none

  @property
  def rgb(self) -> np.ndarray:
    """8-bit RGB: alpha dropped, of 16 bits the upper 8, fewer than 8 stretched to 0..255."""
    if self.color_type == PALETTE:
      return self.palette[self.samples[..., 0]]  # IndexError: a colour that the palette does not have
    colors = self.samples[..., : 3 if self.color_type in (RGB, RGB_ALPHA) else 1]
    if self.bit_depth == 16:
      colors = colors >> 8
    elif self.bit_depth < 8:
      colors = colors * (255 // (2**self.bit_depth - 1))
    return np.broadcast_to(colors, (*colors.shape[:2], 3)).astype(np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
  """A chunk with its length and checksum."""
  return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
  """Kind and data of every chunk up to IEND; the checksums are verified."""
  assert data.startswith(SIGNATURE)
  position, kind = len(SIGNATURE), b''
  while kind != b'IEND':
    length, kind = struct.unpack_from('>I4s', data, position)
    content = data[position + 8 : position + 8 + length]
    (crc,) = struct.unpack_from('>I', data, position + 8 + length)
    assert crc == zlib.crc32(kind + content)
    yield kind, content
    position += 12 + length


def encode(
  picture: Picture,
  *,
  interlaced: bool = False,
  filters: Sequence[int] = (0,),
  num_parts: int = 1,
  other_chunks: Mapping[bytes, bytes] | None = None,
) -> bytes:
  """Writes a PNG.

  Args:
    picture: What is in it.
    interlaced: Whether in seven passes.
    filters: Types of filter (0 to 4) of the rows, taken in turn.
    num_parts: IDAT chunks.
    other_chunks: Data by kind, in front of IDAT.
  """
  height, width, channels = picture.samples.shape
  step = max(1, channels * picture.bit_depth // 8)
  raw, index = b'', 0
  for rows, columns in _pass_slices(height, width, interlaced):
    previous = None
    for row in picture.samples[rows, columns]:
      packed = _pack(row.reshape(-1), picture.bit_depth)
      previous = np.zeros_like(packed) if previous is None else previous
      kind = filters[index % len(filters)]
      raw += bytes([kind]) + _filtered(packed, previous, step, kind).tobytes()
      previous, index = packed, index + 1
  stream = zlib.compress(raw)
  part = -(-len(stream) // num_parts)
  header = struct.pack(
    '>IIBBBBB', width, height, picture.bit_depth, picture.color_type, 0, 0, int(interlaced)
  )
  palette = [chunk(b'PLTE', picture.palette.tobytes())] if len(picture.palette) else []
  return b''.join(
    [
      SIGNATURE,
      chunk(b'IHDR', header),
      *palette,
      *(chunk(kind, data) for kind, data in (other_chunks or {}).items()),
      *(chunk(b'IDAT', stream[i : i + part]) for i in range(0, len(stream), part)),
      chunk(b'IEND', b''),
    ]
  )


def decode(data: bytes) -> Picture:
  """Reads a PNG.

  Raises:
    Exception: Of any type, if it is damaged.
  """
  parts = list(chunks(data))
  assert parts[0][0] == b'IHDR'
  width, height, bit_depth, color_type, compression, filtering, interlaced = struct.unpack(
    '>IIBBBBB', parts[0][1]
  )
  assert bit_depth in BIT_DEPTHS[color_type]
  assert (compression, filtering) == (0, 0)
  assert interlaced in (0, 1)
  kinds = [kind for kind, _ in parts]
  palette = np.zeros((0, 3), np.uint8)
  if b'PLTE' in kinds:
    assert kinds.count(b'PLTE') == 1
    assert kinds.index(b'PLTE') < kinds.index(b'IDAT')
    palette = np.frombuffer(dict(parts)[b'PLTE'], np.uint8).reshape(-1, 3)
  channels = CHANNELS[color_type]
  step = max(1, channels * bit_depth // 8)
  stream = zlib.decompressobj()
  needed = sum(
    1 + -(-len(range(width)[columns]) * channels * bit_depth // 8)
    for rows, columns in _pass_slices(height, width, bool(interlaced))
    for _ in range(height)[rows]
  )
  # One byte more, so that the checksum behind the last one is verified; what is more is left alone.
  raw = stream.decompress(b''.join(content for kind, content in parts if kind == b'IDAT'), needed + 1)
  samples, position = np.zeros((height, width, channels), np.uint16), 0
  for rows, columns in _pass_slices(height, width, bool(interlaced)):
    shape = samples[rows, columns].shape
    row_bytes = -(-shape[1] * channels * bit_depth // 8)
    previous = np.zeros(row_bytes, np.uint8)
    for row in samples[rows, columns]:
      filtered = np.frombuffer(raw[position + 1 : position + 1 + row_bytes], np.uint8)
      assert len(filtered) == row_bytes
      previous = _unfiltered(filtered, previous, step, raw[position])
      row[:] = _unpack(previous, bit_depth)[: shape[1] * channels].reshape(shape[1], channels)
      position += 1 + row_bytes
  return Picture(samples, bit_depth, color_type, palette)


def _pass_slices(height: int, width: int, interlaced: bool) -> Iterator[tuple[slice, slice]]:
  for left, top, right, down in _PASSES if interlaced else ((0, 0, 1, 1),):
    if left < width and top < height:
      yield slice(top, None, down), slice(left, None, right)


def _pack(values: np.ndarray, bit_depth: int) -> np.ndarray:
  if bit_depth >= 8:
    return values.astype('>u2' if bit_depth == 16 else 'u1').view(np.uint8)
  bits = values[:, None] >> np.arange(bit_depth)[::-1] & 1
  return np.packbits(bits.astype(np.uint8).reshape(-1))


def _unpack(row: np.ndarray, bit_depth: int) -> np.ndarray:
  if bit_depth >= 8:
    return row.view('>u2' if bit_depth == 16 else 'u1').astype(np.uint16)
  bits = np.unpackbits(row).reshape(-1, bit_depth)
  return (bits << np.arange(bit_depth)[::-1]).sum(1).astype(np.uint16)


def _prediction(row: Sequence[int], previous: np.ndarray, i: int, step: int, kind: int) -> int:
  """What a filter takes off byte `i` of a row (PNG specification, section 9)."""
  left = int(row[i - step]) if i >= step else 0
  above = int(previous[i])
  corner = int(previous[i - step]) if i >= step else 0
  guess = left + above - corner
  nearest = min((left, above, corner), key=lambda value: abs(guess - value))  # the first of equal ones
  return (0, left, above, (left + above) // 2, nearest)[kind]


def _filtered(row: np.ndarray, previous: np.ndarray, step: int, kind: int) -> np.ndarray:
  return np.array(
    [(int(v) - _prediction(row, previous, i, step, kind)) % 256 for i, v in enumerate(row)], np.uint8
  )


def _unfiltered(filtered: np.ndarray, previous: np.ndarray, step: int, kind: int) -> np.ndarray:
  row = np.zeros_like(filtered)
  for i, value in enumerate(filtered):
    row[i] = (int(value) + _prediction(row, previous, i, step, kind)) % 256
  return row
