"""Decoding and encoding against small references."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dense_aspp_jax.datasets import images, png
from dense_aspp_jax.errors import InputError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
GREY = RGB[..., 0]


def encode(image: Image.Image, file_format: str = 'PNG', **options) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, file_format, **options)
  return buffer.getvalue()


def raw_png(samples: np.ndarray, bit_depth: int, color_type: int, width: int | None = None) -> bytes:
  """A PNG from rows of packed bytes, for what Pillow does not write."""

  def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

  height = samples.shape[0]
  rows = b''.join(b'\0' + row.tobytes() for row in samples)
  header = struct.pack('>IIBBBBB', width or samples.shape[1], height, bit_depth, color_type, 0, 0, 0)
  return (
    b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')
  )


class TestDecodeImage:
  def test_rgb_png(self):
    decoded = images.decode_image(encode(Image.fromarray(RGB)), 'a.png')
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, RGB)
    decoded[0] = 0  # can be written to

  def test_grey_palette_alpha_and_bilevel(self):
    grey = np.repeat(GREY[..., None], 3, 2)
    alpha = np.arange(35, dtype=np.uint8).reshape(5, 7)
    palette = Image.fromarray(GREY % 4).convert('L')
    palette.putpalette([v for i in range(4) for v in (10 * i, 20 * i, 255 - i)])
    indices = GREY % 4
    expected = {
      'L': (Image.fromarray(GREY), grey),
      'LA': (Image.merge('LA', [Image.fromarray(GREY), Image.fromarray(alpha)]), grey),
      'RGBA': (Image.fromarray(np.dstack([RGB, alpha])), RGB),
      'P': (palette, np.stack([10 * indices, 20 * indices, 255 - indices], -1)),
      '1': (Image.fromarray(GREY > 100), np.repeat(255 * (GREY > 100)[..., None], 3, 2)),
    }
    for mode, (image, rgb) in expected.items():
      assert image.mode == mode
      np.testing.assert_array_equal(images.decode_image(encode(image), mode), rgb, err_msg=mode)

  def test_palette_with_transparency_keeps_the_colour(self):
    image = Image.fromarray(GREY % 2)
    image.putpalette([1, 2, 3, 40, 50, 60])
    decoded = images.decode_image(encode(image, transparency=b'\x00\x80'), 'p.png')
    np.testing.assert_array_equal(decoded, np.array([[1, 2, 3], [40, 50, 60]])[GREY % 2])

  def test_16_bit_samples_keep_their_upper_byte(self):
    wide = np.random.default_rng(1).integers(0, 65536, (5, 7, 3), np.uint16)
    grey = images.decode_image(encode(Image.fromarray(wide[..., 0])), 'grey')
    np.testing.assert_array_equal(grey, np.repeat((wide[..., :1] >> 8), 3, 2))
    rgb = raw_png(wide.astype('>u2').reshape(5, -1), 16, 2, width=7)
    np.testing.assert_array_equal(images.decode_image(rgb, 'rgb'), wide >> 8)

  def test_cmyk_jpeg(self):
    cmyk = np.zeros((8, 8, 4), np.uint8)
    cmyk[..., 1] = 255  # magenta alone
    decoded = images.decode_image(encode(Image.fromarray(cmyk, 'CMYK'), 'JPEG', quality=100), 'c.jpg')
    np.testing.assert_allclose(decoded.astype(int), np.broadcast_to([255, 0, 255], (8, 8, 3)), atol=2)

  @pytest.mark.parametrize('file_format', ['PNG', 'JPEG'])
  @pytest.mark.parametrize('orientation', range(1, 9))
  def test_exif_orientation_is_applied(self, orientation: int, file_format: str):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 200  # a corner that tells all eight apart
    upright[:8, 8:16] = 100
    stored = {
      1: upright,
      2: upright[:, ::-1],
      3: upright[::-1, ::-1],
      4: upright[::-1],
      5: upright.swapaxes(0, 1),
      6: np.rot90(upright),  # a viewer turns it clockwise
      7: np.rot90(upright, 2).swapaxes(0, 1),
      8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(np.ascontiguousarray(stored)), file_format, exif=exif)
    decoded = images.decode_image(data, 'photo')
    assert decoded.shape == upright.shape
    np.testing.assert_allclose(decoded.astype(int), upright, atol=6)

  def test_broken_exif_is_ignored(self):
    data = encode(Image.fromarray(RGB), exif=b'Exif\0\0MM\0*\xff\xff\xff\xff garbage')
    np.testing.assert_array_equal(images.decode_image(data, 'a.png'), RGB)

  @pytest.mark.parametrize('file_format', ['PNG', 'JPEG'])
  def test_every_truncation_is_found(self, file_format: str):
    data = encode(Image.fromarray(np.tile(RGB, (4, 4, 1))), file_format)
    shortest_whole = len(data) - (2 if file_format == 'JPEG' else 0)  # a JPEG may lack its end mark
    for length in [*range(0, shortest_whole - 20, 29), shortest_whole - 12, shortest_whole - 1]:
      with pytest.raises(InputError, match='some/name'):
        images.decode_image(data[:length], 'some/name')

  def test_every_flipped_bit_of_a_png_is_found(self):
    data = encode(Image.fromarray(RGB))
    for position in range(len(data)):
      damaged = bytearray(data)
      damaged[position] ^= 4
      with pytest.raises(InputError, match='some/name'):
        images.decode_image(bytes(damaged), 'some/name')

  def test_pillow_alone_accepts_a_png_without_its_end(self):
    data = encode(Image.fromarray(RGB))[:-12]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), RGB)  # why we look ourselves
    with pytest.raises(InputError, match='truncated PNG'):
      images.decode_image(data, 'a.png')

  def test_other_files_are_refused(self):
    for data in (b'', b'<!DOCTYPE html>', encode(Image.fromarray(RGB), 'BMP')):
      with pytest.raises(InputError, match=r'a\.png: neither PNG nor JPEG'):
        images.decode_image(data, 'a.png')

  @pytest.mark.parametrize(('width', 'height'), [(20000, 20000), (65536, 1), (1, 65536)])
  def test_decompression_bomb_is_refused_by_its_header(self, width: int, height: int):
    bomb = raw_png(np.zeros((1, 1), np.uint8), 8, 0, width=20000)
    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    bomb = bomb[:16] + header + struct.pack('>I', zlib.crc32(b'IHDR' + header)) + bomb[33:]
    bomb = bomb[:40]  # the rest is not read
    for decode in (images.decode_image, images.decode_label):
      with pytest.raises(InputError, match=rf'bomb\.png: {height}x{width} pixels'):
        decode(bomb, 'bomb.png')

  def test_large_jpeg_is_refused(self, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(png, 'MAX_PIXELS', 34)
    with pytest.raises(InputError, match=r'a\.jpg: 5x7 pixels'):
      images.decode_image(encode(Image.fromarray(RGB), 'JPEG'), 'a.jpg')


class TestDecodeLabel:
  def test_grey_and_palette_keep_their_ids(self):
    palette = Image.fromarray(GREY)
    palette.putpalette(np.random.default_rng(2).integers(0, 256, 768).tolist())
    for image in (Image.fromarray(GREY), palette):
      decoded = images.decode_label(encode(image), 'a.png')
      assert decoded.dtype == np.uint8
      np.testing.assert_array_equal(decoded, GREY)

  def test_bilevel(self):
    decoded = images.decode_label(encode(Image.fromarray(GREY > 99)), 'a.png')
    np.testing.assert_array_equal(decoded, (GREY > 99).astype(np.uint8))

  @pytest.mark.parametrize('bits', [2, 4])
  @pytest.mark.parametrize('color_type', [0, 3])
  def test_two_and_four_bits(self, bits: int, color_type: int):
    ids = np.random.default_rng(3).integers(0, 2**bits, (6, 8), np.uint8)
    per_byte = 8 // bits
    shifts = bits * np.arange(per_byte)[::-1]
    packed = (ids.reshape(6, -1, per_byte) << shifts).sum(-1).astype(np.uint8)
    data = raw_png(packed, bits, color_type, width=8)
    if color_type == 3:
      kind, table = b'PLTE', bytes(range(3 * 2**bits))
      chunk = struct.pack('>I', len(table)) + kind + table + struct.pack('>I', zlib.crc32(kind + table))
      data = data[:33] + chunk + data[33:]
    np.testing.assert_array_equal(images.decode_label(data, 'a.png'), ids)

  def test_16_bits_up_to_255(self):
    data = encode(Image.fromarray(GREY.astype(np.uint16)))
    np.testing.assert_array_equal(images.decode_label(data, 'a.png'), GREY)
    with pytest.raises(InputError, match=r'256 \(35 pixels\)'):
      images.decode_label(encode(Image.fromarray(GREY.astype(np.uint16) * 0 + 256)), 'a.png')

  @pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'LA'])
  def test_pictures_in_colour_are_refused(self, mode: str):
    with pytest.raises(InputError, match=r'a\.png: 8-bit (RGB|grey).* PNG'):
      images.decode_label(encode(Image.fromarray(RGB).convert(mode)), 'a.png')

  def test_jpeg_truncated_and_damaged_are_refused(self):
    with pytest.raises(InputError, match='a JPEG, which alters label ids'):
      images.decode_label(encode(Image.fromarray(GREY), 'JPEG'), 'a.jpg')
    data = encode(Image.fromarray(GREY))
    for bad in (data[:-12], data[: len(data) // 2], data[:50] + b'\xff' + data[51:], b''):
      with pytest.raises(InputError, match=r'labels/a\.png'):
        images.decode_label(bad, 'labels/a.png')


def test_png_header_needs_the_first_bytes_only():
  data = encode(Image.fromarray(RGB))
  assert png.read_png_header(data[: png.PNG_HEADER_BYTES], 'a') == png.PngHeader(5, 7, 8, 2)
  with pytest.raises(InputError, match='truncated'):
    png.read_png_header(data[: png.PNG_HEADER_BYTES - 1], 'a')


def test_encode_png_is_lossless():
  np.testing.assert_array_equal(images.decode_image(images.encode_png(RGB), 'a'), RGB)
  np.testing.assert_array_equal(images.decode_label(images.encode_png(GREY), 'a'), GREY)
  np.testing.assert_array_equal(images.decode_label(images.encode_png(GREY[:, ::-1]), 'a'), GREY[:, ::-1])
