"""PNGs whose checksums are right and whose pixels are not all there."""

import struct
import tracemalloc
import zlib

import numpy as np
import plain_png
import pytest
from PIL import Image
from plain_png import BIT_DEPTHS, CHANNELS, GREY, PALETTE, Picture, chunk, chunks, encode

from dense_aspp_jax.datasets.images import decode_image, decode_label
from dense_aspp_jax.datasets.png import PngHeader, check_png, check_rows, num_row_bytes, read_png_header
from dense_aspp_jax.errors import InputError

SAMPLES = np.random.default_rng(0).integers(0, 4, (9, 7, 1)).astype(np.uint16)
COLORS = np.random.default_rng(1).integers(0, 256, (4, 3)).astype(np.uint8)
GREY_PNG = encode(Picture(SAMPLES, 8, GREY, COLORS[:0]))
PALETTE_PNG = encode(Picture(SAMPLES, 8, PALETTE, COLORS))


def with_chunks(data, change):
  """The file with its list of (kind, data) changed."""
  listed = change(list(chunks(data)))
  return plain_png.SIGNATURE + b''.join(chunk(kind, content) for kind, content in listed)


def with_header(data, **values):
  names = ('width', 'height', 'bit_depth', 'color_type', 'compression', 'filtering', 'interlaced')
  fields = dict(zip(names, struct.unpack('>IIBBBBB', data[16:29]), strict=True)) | values
  return with_chunks(data, lambda c: [(b'IHDR', struct.pack('>IIBBBBB', *fields.values())), *c[1:]])


def with_stream(data, change):
  """The file with another zlib stream of its rows."""
  return with_chunks(data, lambda c: [(k, change(d) if k == b'IDAT' else d) for k, d in c])


@pytest.mark.parametrize('decode', [decode_image, decode_label])
def test_rows_that_are_missing_are_not_made_up(decode, tmp_path):
  data = with_header(GREY_PNG, height=12)
  (tmp_path / 'a.png').write_bytes(data)
  with Image.open(tmp_path / 'a.png') as image:
    assert not np.asarray(image)[9:].any()  # Pillow alone fills them with zeros
  with pytest.raises(InputError, match=r'a\.png: .*72 of 96 bytes'):
    decode(data, 'a.png')


def test_rows_that_are_too_many_are_left_alone():
  np.testing.assert_array_equal(decode_label(with_header(GREY_PNG, height=5), 'a'), SAMPLES[:5, :, 0])


def test_the_checksum_of_the_rows_is_verified():
  wrong = with_stream(GREY_PNG, lambda stream: stream[:-1] + bytes([stream[-1] ^ 1]))
  with pytest.raises(InputError, match='a: damaged PNG'):
    check_png(wrong, 'a')
  with pytest.raises(InputError, match='a: damaged PNG'):
    check_png(with_stream(GREY_PNG, lambda _: b'no stream'), 'a')
  with pytest.raises(InputError, match='a: damaged PNG, 0 of 72 bytes'):
    check_png(with_chunks(GREY_PNG, lambda c: [x for x in c if x[0] != b'IDAT']), 'a')


@pytest.mark.parametrize('cut', [1, 2, 1000])
def test_pieces_of_any_size(cut):
  rows = np.random.default_rng(2).integers(0, 256, 3 * 2**20 + 5).astype(np.uint8).tobytes()
  stream = zlib.compress(rows, 1)
  parts = [stream[:cut], b'', *(stream[i : i + 700_000] for i in range(cut, len(stream), 700_000))]
  check_rows(parts, len(rows), 'a')
  with pytest.raises(InputError, match=f'{len(rows)} of {len(rows) + 1} bytes'):
    check_rows(parts, len(rows) + 1, 'a')


def test_zeros_without_end_are_not_unpacked():
  stream = zlib.compress(bytes(2**24))
  tracemalloc.start()
  try:
    check_rows([stream], 10, 'a')
    check_rows([stream], 2**24, 'a')
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert peak < 2**22  # some pieces of 1 MiB


@pytest.mark.parametrize('interlaced', [False, True])
def test_the_number_of_bytes_is_that_of_an_encoder(interlaced):
  for color_type, depths in BIT_DEPTHS.items():
    for bit_depth in depths:
      for height, width in ((1, 1), (2, 5), (5, 3), (9, 17)):
        samples = np.zeros((height, width, CHANNELS[color_type]), np.uint16)
        data = encode(Picture(samples, bit_depth, color_type, COLORS), interlaced=interlaced)
        stream = b''.join(content for kind, content in chunks(data) if kind == b'IDAT')
        header = PngHeader(height, width, bit_depth, color_type, interlaced)
        assert num_row_bytes(header) == len(zlib.decompress(stream))


def test_colours_that_the_palette_does_not_have():
  used = SAMPLES.max()
  short = with_chunks(PALETTE_PNG, lambda c: [(k, d[: 3 * used] if k == b'PLTE' else d) for k, d in c])
  with pytest.raises(InputError, match=rf'a: .*{used} of a palette of {used}'):
    decode_image(short, 'a')
  np.testing.assert_array_equal(decode_label(short, 'a'), SAMPLES[..., 0])  # ids whatever the colours
  with pytest.raises(InputError, match=rf'colour {used} of a palette of 0'):
    decode_image(with_chunks(PALETTE_PNG, lambda c: [x for x in c if x[0] != b'PLTE']), 'a')


@pytest.mark.parametrize(
  'change',
  [
    lambda c: [c[0], c[1], *c[1:]],  # two of them
    lambda c: [c[0], *c[2:-1], c[1], c[-1]],  # behind the pixels
    lambda c: [c[0], (b'PLTE', c[1][1][:-1]), *c[2:]],  # a colour of two bytes
  ],
)
def test_palettes_that_no_png_has(change):
  with pytest.raises(InputError, match=r'a: .*palette at byte'):
    check_png(with_chunks(PALETTE_PNG, change), 'a')


@pytest.mark.parametrize(
  'values', [{'compression': 1}, {'filtering': 1}, {'interlaced': 2}, {'color_type': 1}]
)
def test_headers_that_no_png_has(values):
  with pytest.raises(InputError, match='a: damaged PNG'):
    read_png_header(with_header(GREY_PNG, **values), 'a')
  with pytest.raises(InputError, match='a: damaged'):
    decode_image(with_header(GREY_PNG, bit_depth=3), 'a')
