"""Decoding and encoding against small references."""

import io
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dense_aspp_jax.datasets import images, png
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.labels import LabelClass, LabelSet

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


def raw_tiff(data: bytes, size: tuple[int, int], bits: int, *, photometric: int = 1, **others: int) -> bytes:
  """A grey TIFF of a strip of packed bytes, for what Pillow does not write; `others` are tags `t<number>`."""
  height, width = size
  tags = {
    256: width,
    257: height,
    258: bits,
    259: 1,
    262: photometric,
    273: 8,
    277: 1,
    278: height,
    279: len(data),
  }
  tags |= {int(name[1:]): value for name, value in others.items()}
  directory = b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in sorted(tags.items()))
  return (
    struct.pack('<4sI', b'II*\0', 8 + len(data)) + data + struct.pack('<H', len(tags)) + directory + bytes(4)
  )


def palette_of(indices: np.ndarray, colors: list[int]) -> Image.Image:
  image = Image.fromarray(indices)
  image.putpalette(colors)
  return image


def npy(array: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  np.save(buffer, array, allow_pickle=True)
  return buffer.getvalue()


# Lossless, so that the pixels can be compared.
LOSSLESS = {
  'TIFF': {},
  'TIFF, LZW': {'compression': 'tiff_lzw'},
  'TIFF, deflate': {'compression': 'tiff_adobe_deflate'},
  'BigTIFF': {'big_tiff': True},
  'BMP': {},
  'WEBP': {'lossless': True, 'exact': True},
}


def encode_lossless(image: Image.Image, kind: str, **options) -> bytes:
  name = 'TIFF' if 'TIFF' in kind else kind
  return encode(image, name, **LOSSLESS[kind], **options)


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

  @pytest.mark.parametrize('kind', LOSSLESS)
  def test_other_formats_are_read_as_they_were_made(self, kind: str):
    grey = np.repeat(GREY[..., None], 3, 2)
    np.testing.assert_array_equal(images.decode_image(encode_lossless(Image.fromarray(RGB), kind), 'a'), RGB)
    np.testing.assert_array_equal(
      images.decode_image(encode_lossless(Image.fromarray(GREY), kind), 'a'), grey
    )
    transparent = Image.fromarray(np.dstack([RGB, np.zeros_like(GREY)]))
    decoded = images.decode_image(encode_lossless(transparent, kind), 'a')
    np.testing.assert_array_equal(decoded, RGB)  # the colour below alpha is kept

  @pytest.mark.parametrize('file_format', ['GIF', 'BMP', 'TIFF'])
  def test_palettes_of_other_formats(self, file_format: str):
    colors = np.array([[9, 8, 7], [1, 2, 3], [4, 5, 6], [200, 100, 50]], np.uint8)
    image = palette_of(GREY % 4, colors.ravel().tolist())
    np.testing.assert_array_equal(images.decode_image(encode(image, file_format), 'a'), colors[GREY % 4])

  @pytest.mark.parametrize('file_format', ['TIFF', 'GIF', 'WEBP'])
  def test_the_first_of_several_pictures_is_taken(self, file_format: str):
    first, second = np.full((8, 9, 3), (0, 0, 255), np.uint8), np.full((8, 9, 3), 255, np.uint8)
    options = {'lossless': True} if file_format == 'WEBP' else {}
    data = encode(
      Image.fromarray(first), file_format, save_all=True, append_images=[Image.fromarray(second)], **options
    )
    assert Image.open(io.BytesIO(data)).n_frames == 2
    np.testing.assert_array_equal(images.decode_image(data, 'a'), first)

  def test_wide_samples_of_tiff(self):
    wide = np.random.default_rng(1).integers(0, 65536, (5, 7, 3), np.uint16)
    upper = np.repeat(wide[..., :1] >> 8, 3, 2)
    for data in (
      encode(Image.fromarray(wide[..., 0]), 'TIFF'),
      encode(Image.fromarray(wide[..., 0]), 'TIFF', compression='tiff_lzw'),
      raw_tiff(wide[..., 0].astype('<u2').tobytes(), (5, 7), 16),
    ):
      np.testing.assert_array_equal(images.decode_image(data, 'a'), upper)
    twelve = raw_tiff(bytes([0xAB, 0xC1, 0x23] * 3), (3, 2), 12)  # 0xABC and 0x123 in each row
    np.testing.assert_array_equal(images.decode_image(twelve, 'a')[..., 0], [[0xAB, 0x12]] * 3)

  def test_samples_without_a_range_are_refused_in_words(self):
    for samples, found in (
      (np.full((5, 7), 0.5, np.float32), '32-bit float TIFF of 5x7'),
      (np.full((5, 7), 70000, np.int32), '32-bit grey TIFF of 5x7'),
    ):
      with pytest.raises(InputError, match=rf'a\.tif: {found}.*no fixed range'):
        images.decode_image(encode(Image.fromarray(samples), 'TIFF'), 'a.tif')
    premultiplied = raw_tiff(bytes(70), (5, 7), 8, t277=2, t338=1)
    with pytest.raises(InputError, match=r'a\.tif: .* of 5x7 pixels; convert it to RGB'):
      images.decode_image(premultiplied, 'a.tif')
    with pytest.raises(InputError, match=r'a\.tif: .*a kind that Pillow does not read'):
      images.decode_image(raw_tiff(bytes(70), (5, 7), 16, t339=7), 'a.tif')

  @pytest.mark.parametrize('decode', [images.decode_image, images.decode_label])
  def test_signed_bytes_of_a_tiff_are_not_taken_for_unsigned_ones(self, decode):
    signed = np.array([[-128, -1], [0, 127]], np.int8)
    with pytest.raises(InputError, match='signed 8-bit samples'):
      decode(raw_tiff(signed.tobytes(), (2, 2), 8, t339=2), 'a.tif')

  @pytest.mark.parametrize(
    ('bands', 'kind', 'photometric', 'found'),
    [
      (3, np.uint8, 1, '3 bands of 8 bits, unsigned'),  # what tifffile and GDAL write by default
      (4, np.uint16, 1, '4 bands of 16 bits, unsigned'),
      (8, np.uint8, 2, '8 bands of 8 bits, unsigned'),
      (3, np.int16, 2, '3 bands of 16 bits, signed'),
      (3, np.float32, 2, '3 bands of 32 bits, float'),
    ],
  )
  def test_bands_that_are_no_colours_are_not_called_damage(self, bands, kind, photometric, found, capfd):
    data = np.zeros((5, 7, bands), kind).tobytes()
    sample_format = {'u': 1, 'i': 2, 'f': 3}[np.dtype(kind).kind]
    bits = 8 * np.dtype(kind).itemsize
    tiff = raw_tiff(data, (5, 7), bits, photometric=photometric, t277=bands, t339=sample_format)
    for read in (images.decode_image, images.decode_label):
      with pytest.raises(InputError, match=rf'a\.tif: a TIFF with {found}.*declared as RGB') as error:
        read(tiff, 'a.tif')
      assert 'damaged' not in str(error.value)
    assert capfd.readouterr().err == ''

  def test_a_bmp_that_pillow_misreads_is_refused(self):
    two_greys = bytearray(encode(palette_of(GREY % 2, [0, 0, 0, 255, 255, 255]), 'BMP'))
    assert struct.unpack_from('<H', two_greys, 28) == (8,)
    assert Image.open(io.BytesIO(two_greys)).mode == '1'  # of bytes
    for decode in (images.decode_image, images.decode_label):
      with pytest.raises(InputError, match=r'a\.bmp: .*8 bits.*misreads'):
        decode(bytes(two_greys), 'a.bmp')

  def test_rows_that_a_tiff_lacks_are_not_made_up(self):
    data = raw_tiff(bytes(14), (5, 7), 8, t278=2)
    assert not np.asarray(Image.open(io.BytesIO(data)))[2:].any()  # Pillow alone fills them with zeros
    with pytest.raises(InputError, match=r'a\.tif: truncated TIFF, 14 of 35 samples'):
      images.decode_image(data, 'a.tif')
    one_of_three_planes = raw_tiff(bytes(35), (5, 7), 8, photometric=2, t277=3, t284=2)
    with pytest.raises(InputError, match=r'a\.tif: truncated TIFF, 35 of 105 samples'):
      images.decode_image(one_of_three_planes, 'a.tif')

  def test_a_tiff_that_stores_white_as_0(self):
    inverted = images.decode_image(raw_tiff(GREY.tobytes(), (5, 7), 8, photometric=0), 'a')
    np.testing.assert_array_equal(inverted, np.repeat(255 - GREY[..., None], 3, 2))
    with pytest.raises(InputError, match='16-bit TIFF that stores white as 0'):  # Pillow does not invert it
      images.decode_image(raw_tiff(bytes(70), (5, 7), 16, photometric=0), 'a')

  @pytest.mark.parametrize('file_format', ['PNG', 'JPEG', 'TIFF', 'WEBP'])
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
    stored = np.ascontiguousarray(stored)
    data = encode(Image.fromarray(stored), file_format, exif=exif)
    decoded = images.decode_image(data, 'photo')
    assert decoded.shape == upright.shape
    np.testing.assert_allclose(decoded.astype(int), upright, atol=6)
    decoded = images.decode_image(data, 'photo', as_stored=True)
    np.testing.assert_allclose(decoded.astype(int), stored, atol=6)
    if orientation > 1:
      with pytest.raises(InputError, match=f'EXIF orientation {orientation}'):
        images.decode_image(data, 'photo', as_stored=None)

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

  @pytest.mark.parametrize('kind', [*LOSSLESS, 'GIF'])
  def test_truncations_of_other_formats_are_found(self, kind: str):
    picture = Image.fromarray(np.tile(RGB, (4, 4, 1)))
    data = encode(picture, 'GIF') if kind == 'GIF' else encode_lossless(picture, kind)
    for length in [*range(0, len(data) - 3, 29), len(data) - 3]:  # GIF and BMP may lack an end of two bytes
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
    pointer = b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n'
    for data, remedy in (
      (b'', 'empty file; get the file again'),
      (b'\n<!DOCTYPE html>', 'a web page.*; get the file again'),
      (pointer, 'Git LFS pointer.*`git lfs pull`'),
      (encode(Image.fromarray(RGB), 'PPM'), 'it begins with .*; convert it'),
    ):
      for decode in (images.decode_image, images.decode_label):
        with pytest.raises(InputError, match=rf'a\.png: not a PNG.*{remedy}'):
          decode(data, 'a.png')

  @pytest.mark.parametrize(('width', 'height'), [(20000, 20000), (65536, 1), (1, 65536)])
  def test_decompression_bomb_is_refused_by_its_header(self, width: int, height: int):
    bomb = raw_png(np.zeros((1, 1), np.uint8), 8, 0, width=20000)
    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    bomb = bomb[:16] + header + struct.pack('>I', zlib.crc32(b'IHDR' + header)) + bomb[33:]
    bomb = bomb[:40]  # the rest is not read
    for decode in (images.decode_image, images.decode_label):
      with pytest.raises(InputError, match=rf'bomb\.png: {height}x{width} pixels'):
        decode(bomb, 'bomb.png')

  @pytest.mark.parametrize('file_format', ['JPEG', 'TIFF', 'WEBP', 'BMP', 'GIF'])
  def test_large_images_are_refused_before_they_are_decoded(
    self, file_format: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
  ):
    data = encode(Image.fromarray(RGB), file_format)
    monkeypatch.setattr(png, 'MAX_PIXELS', 34)
    monkeypatch.setattr(Image.Image, 'load', lambda _: pytest.fail('it was decoded'))
    with pytest.raises(InputError, match=r'a: 5x7 pixels'):
      images.decode_image(data, 'a')
    (tmp_path / 'a').write_bytes(data)
    with pytest.raises(InputError, match=r'a: 5x7 pixels'):
      images.check_image_header(tmp_path / 'a')

  def test_a_tile_larger_than_any_image_is_refused(self):
    data = raw_tiff(bytes(35), (5, 7), 8, t322=2**30, t323=16)
    with pytest.raises(InputError, match='16x1073741824 pixels'):
      images.decode_image(data, 'a')

  def test_too_little_memory_is_no_damage(self, monkeypatch: pytest.MonkeyPatch):
    def fail(*_):
      raise MemoryError

    for file_format in ('PNG', 'JPEG', 'TIFF'):
      data = encode(Image.fromarray(RGB), file_format)
      with monkeypatch.context() as patch:
        patch.setattr(f'PIL.{file_format.title()}ImagePlugin.{file_format.title()}ImageFile.load', fail)
        with pytest.raises(RunError, match=r'a\.png: too little memory'):
          images.decode_image(data, 'a.png')

  def test_a_missing_decoder_is_no_damage(self, monkeypatch: pytest.MonkeyPatch):
    webp, tiff = encode(Image.fromarray(RGB), 'WEBP'), encode_lossless(Image.fromarray(RGB), 'TIFF, LZW')
    monkeypatch.setattr('PIL.WebPImagePlugin.SUPPORTED', False)
    monkeypatch.delattr('PIL.WebPImagePlugin._webp')
    monkeypatch.delattr('PIL._imaging.libtiff_decoder')
    for data in (webp, tiff):
      with pytest.raises(InputError, match=r'a: this installation of Pillow lacks the decoder') as caught:
        images.decode_image(data, 'a')
      assert 'again' not in str(caught.value)

  def test_an_image_that_cannot_be_read_is_no_damage(self):
    with pytest.raises(InputError, match=r'/proc/self/mem: cannot be read \(Input/output error'):
      images.check_image_header(pathlib.Path('/proc/self/mem'))


class TestMetadataOfPng:
  """Texts and profiles, in whatever state, make no difference to pixels that are whole."""

  LARGE = bytes(2**21)

  def with_chunk(self, kind: bytes, content: bytes, picture: np.ndarray = RGB) -> bytes:
    data = encode(Image.fromarray(picture))
    chunk = struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))
    return data[:33] + chunk + data[33:]

  @pytest.mark.parametrize(
    ('kind', 'content'),
    [
      (b'iCCP', b'large\0\0' + zlib.compress(LARGE)),
      (b'iCCP', b'broken\0\0no stream'),
      (b'iCCP', b'x'),
      (b'tEXt', b'Comment\0' + LARGE),
      (b'zTXt', b'Comment\0\0' + zlib.compress(LARGE)),
      (b'zTXt', b'Comment\0\1unknown compression'),
      (b'zTXt', b'Raw profile type exif\0\0' + zlib.compress(LARGE)),
      (b'iTXt', b'XML:com.adobe.xmp\0\1\0\0\0' + zlib.compress(LARGE)),
      (b'eXIf', LARGE),
      (b'tRNS', b'\0'),
      (b'pHYs', b''),
      (b'acTL', b'\0\0\0\2\0\0\0\0'),
    ],
  )
  def test_it_is_read(self, kind: bytes, content: bytes):
    np.testing.assert_array_equal(images.decode_image(self.with_chunk(kind, content), 'a.png'), RGB)
    np.testing.assert_array_equal(images.decode_label(self.with_chunk(kind, content, GREY), 'a.png'), GREY)

  def test_the_orientation_in_texts_counts_as_before(self):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = exif.tobytes()
    raw = b'\nexif\n%8d\n%s\n' % (len(content), content.hex().encode())
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for kind, chunk in (
      (b'eXIf', content[6:]),
      (b'zTXt', b'Raw profile type exif\0\0' + zlib.compress(raw)),
      (b'iTXt', b'XML:com.adobe.xmp\0\0\0\0\0' + xmp),
    ):
      decoded = images.decode_image(self.with_chunk(kind, chunk), 'a.png')
      np.testing.assert_array_equal(decoded, np.rot90(RGB, -1), err_msg=str(kind))


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

  @pytest.mark.parametrize('mode', ['RGB', 'RGBA'])
  @pytest.mark.parametrize('file_format', ['PNG', 'TIFF'])
  def test_pictures_in_colour_are_refused(self, mode: str, file_format: str):
    one_pixel = np.repeat(GREY[..., None], 3, 2)
    one_pixel[2, 3, 1] ^= 1
    for picture in (RGB, one_pixel):
      data = encode(Image.fromarray(picture).convert(mode), file_format)
      with pytest.raises(InputError, match=rf'a\.png: 8-bit RGB.* {file_format} of 5x7.*single channel'):
        images.decode_label(data, 'a.png')

  @pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'LA'])
  @pytest.mark.parametrize('file_format', ['PNG', 'TIFF'])
  def test_equal_channels_and_opaque_alpha_are_one_channel(self, mode: str, file_format: str):
    image = Image.fromarray(GREY).convert(mode)
    np.testing.assert_array_equal(images.decode_label(encode(image, file_format), 'a'), GREY)
    if mode != 'RGB':
      image.putpixel((1, 2), (*image.getpixel((1, 2))[:-1], 254))
      with pytest.raises(InputError, match=r'a\.png: 8-bit .*with alpha.*1 of them transparent'):
        images.decode_label(encode(image, file_format), 'a.png')

  def test_16_bit_channels_are_not_cut_to_their_upper_half(self):
    ids = np.repeat(GREY[..., None].astype('>u2'), 3, 2)
    data = raw_png(ids.reshape(5, -1), 16, 2, width=7)
    assert not np.asarray(Image.open(io.BytesIO(data))).any()  # Pillow alone
    with pytest.raises(InputError, match='a: 16-bit RGB PNG of 5x7'):
      images.decode_label(data, 'a')

  @pytest.mark.parametrize('kind', ['TIFF', 'TIFF, LZW', 'TIFF, deflate', 'BigTIFF', 'BMP'])
  def test_other_lossless_formats(self, kind: str):
    colors = np.random.default_rng(2).integers(0, 256, 768).tolist()
    for image in (Image.fromarray(GREY), palette_of(GREY, colors)):
      np.testing.assert_array_equal(images.decode_label(encode_lossless(image, kind), 'a'), GREY)
    bilevel = images.decode_label(encode_lossless(Image.fromarray(GREY > 99), kind), 'a')
    np.testing.assert_array_equal(bilevel, GREY > 99)

  def test_indices_of_a_gif_are_ids_where_its_palette_has_colours(self):
    colors = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0]
    np.testing.assert_array_equal(
      images.decode_label(encode(palette_of(GREY % 4, colors), 'GIF'), 'a'), GREY % 4
    )
    packed = encode(Image.fromarray(GREY % 4 * 9), 'GIF')  # Pillow drops the greys between
    assert np.asarray(Image.open(io.BytesIO(packed))).max() == 3
    with pytest.raises(InputError, match=r'a\.gif: .*greys \[0, 9, 18, 27\].*not clear'):
      images.decode_label(packed, 'a.gif')

  def test_four_bits_of_a_tiff_and_greys_the_other_way_round(self):
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    packed = (ids[:, ::2] << 4 | ids[:, 1::2]).tobytes()
    np.testing.assert_array_equal(images.decode_label(raw_tiff(packed, (3, 4), 4), 'a'), ids)
    with pytest.raises(InputError, match='stores white as 0'):
      images.decode_label(raw_tiff(packed, (3, 4), 4, photometric=0), 'a')

  @pytest.mark.parametrize('file_format', ['TIFF', 'GIF'])
  def test_which_of_several_pictures_is_the_label_is_not_guessed(self, file_format: str):
    one, other = (palette_of(np.full((8, 9), i, np.uint8), [1, 2, 3, 4, 5, 6]) for i in (0, 1))
    data = encode(one, file_format, save_all=True, append_images=[other])
    with pytest.raises(InputError, match='with several pictures'):
      images.decode_label(data, 'a')

  def test_smaller_copies_in_a_tiff_are_no_other_pictures(self):
    first = Image.fromarray(GREY)
    small = Image.fromarray(GREY[::2, ::2].copy())
    small.encoderinfo = {'tiffinfo': {254: 1}}
    data = encode(first, 'TIFF', save_all=True, append_images=[small])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    np.testing.assert_array_equal(images.decode_label(data, 'a'), GREY)

  def test_a_turned_tiff_is_refused(self):
    exif = Image.Exif()
    exif[0x0112] = 6
    with pytest.raises(InputError, match='with orientation 6'):
      images.decode_label(encode(Image.fromarray(GREY), 'TIFF', exif=exif), 'a')

  def test_a_tiff_compressed_with_loss_is_refused_as_label_alone(self):
    data = encode(Image.fromarray(GREY), 'TIFF', compression='jpeg')
    with pytest.raises(InputError, match=r'TIFF of .* compressed with loss \(jpeg\)'):
      images.decode_label(data, 'a')
    assert images.decode_image(data, 'a').shape == (*GREY.shape, 3)

  def test_minus_one_is_255_where_the_label_set_ignores_that(self):
    ignoring = LabelSet('ignoring', (LabelClass('all', tuple(range(255)), (1, 2, 3)),), ignore_ids=(255,))
    other = LabelSet('other', (LabelClass('all', tuple(range(256)), (1, 2, 3)),))
    ids = GREY.astype(np.int32)
    ids[0, 0], ids[1, 1] = -1, 255
    expected = np.where(ids == -1, 255, ids)
    for data in (
      encode(Image.fromarray(ids.astype(np.uint16))),
      encode(Image.fromarray(ids.astype(np.uint16)), 'TIFF'),
      encode(Image.fromarray(ids), 'TIFF'),
      npy(ids),
    ):
      np.testing.assert_array_equal(images.decode_label_ids(data, ignoring, 'a'), expected)
      with pytest.raises(InputError, match=r'a: label ids (-1|65535) \(1 pixels\)'):
        images.decode_label_ids(data, other, 'a')

  @pytest.mark.parametrize('dtype', ['u1', '<u2', '>i4', '<i8', '?'])
  def test_arrays_of_integers(self, dtype: str):
    ids = (GREY % 2).astype(dtype)
    for array in (ids, np.asfortranarray(ids), ids.T.copy().T[:, ::-1]):
      decoded = images.decode_label(npy(array), 'a')
      assert decoded.dtype == np.uint8
      np.testing.assert_array_equal(decoded, array)

  def test_other_arrays_are_refused(self):
    with pytest.raises(InputError, match=r'label ids 256 \(35 pixels\) in a \.npy array of int64'):
      images.decode_label(npy(np.full((5, 7), 256)), 'a')
    for array, found in (
      (GREY.astype(np.float32), r'float32 \[5, 7\]'),
      (RGB, r'uint8 \[5, 7, 3\]'),
      (np.array([[None]]), r'object \[1, 1\]'),
    ):
      with pytest.raises(InputError, match=rf'a\.npy: a \.npy array of {found}; expected integers'):
        images.decode_label(npy(array), 'a.npy')
    data = npy(GREY)
    for length in range(6, len(data)):
      with pytest.raises(InputError, match=r'a\.npy: '):
        images.decode_label(data[:length], 'a.npy')
    with pytest.raises(InputError, match='100000x100000 pixels'):
      images.decode_label(data.replace(b'(5, 7), }' + b' ' * 10, b'(100000, 100000), }'), 'a.npy')

  def test_jpeg_truncated_and_damaged_are_refused(self):
    with pytest.raises(InputError, match='a JPEG, which alters label ids'):
      images.decode_label(encode(Image.fromarray(GREY), 'JPEG'), 'a.jpg')
    data = encode(Image.fromarray(GREY))
    lossless = encode(Image.fromarray(GREY), 'WEBP', lossless=True)
    with pytest.raises(InputError, match='a WEBP, which may alter label ids'):  # most of them do
      images.decode_label(lossless, 'a.webp')
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
