"""Generated images and label maps of every kind that PNG and JPEG have, decoded as they were made."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image
from plain_png import BIT_DEPTHS, CHANNELS, GREY, PALETTE, Picture, decode, encode

from dense_aspp_jax.datasets.images import decode_image, decode_label
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import IGNORE_LABEL, LabelClass, LabelSet

fuzz = settings(derandomize=True, database=None, max_examples=150, deadline=None)
EXIF_ORIENTATION = 0x0112
# What a viewer does with the stored pixels (EXIF 2.3, table 6).
UPRIGHT = {
  1: lambda a: a,
  2: lambda a: a[:, ::-1],
  3: lambda a: a[::-1, ::-1],
  4: lambda a: a[::-1],
  5: lambda a: a.swapaxes(0, 1),
  6: lambda a: np.rot90(a, -1),
  7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
  8: lambda a: np.rot90(a),
}
sides = st.integers(1, 9)


@st.composite
def pictures(draw, color_types=tuple(CHANNELS)):
  """Samples of any kind of PNG."""
  color_type = draw(st.sampled_from(color_types))
  bit_depth = draw(st.sampled_from(BIT_DEPTHS[color_type]))
  palette = np.zeros((0, 3), np.uint8)
  highest = 2**bit_depth - 1
  if color_type == PALETTE:
    num_colors = draw(st.integers(1, 2**bit_depth))
    palette = draw(st_numpy.arrays(np.uint8, (num_colors, 3)))
    highest = num_colors - 1
  shape = (draw(sides), draw(sides), CHANNELS[color_type])
  samples = draw(st_numpy.arrays(np.uint16, shape, elements=st.integers(0, highest)))
  return Picture(samples, bit_depth, color_type, palette)


layouts = st.fixed_dictionaries(
  {
    'interlaced': st.booleans(),
    'filters': st.lists(st.integers(0, 4), min_size=1, max_size=5),
    'num_parts': st.integers(1, 3),
  }
)


@fuzz
@given(pictures(), layouts, st.sampled_from([None, b'tEXt', b'tIME', b'tRNS']))
def test_every_png_is_decoded_as_it_was_made(picture, layout, other):
  transparency = {PALETTE: b'\x80', GREY: b'\0\1'}.get(picture.color_type, bytes(6))
  contents = {b'tEXt': b'Comment\0none', b'tIME': b'\x07\xe0\1\1\0\0\0', b'tRNS': transparency}
  if other == b'tRNS' and picture.color_type in (4, 6):  # these have alpha as a channel
    other = None
  data = encode(picture, **layout, other_chunks={other: contents[other]} if other else None)
  rgb = decode_image(data, 'a.png')
  assert (rgb.dtype, rgb.flags.writeable) == (np.uint8, True)
  np.testing.assert_array_equal(rgb, picture.rgb)
  np.testing.assert_array_equal(decode(data).samples, picture.samples)  # so does the decoder of the tests


@fuzz
@given(pictures((GREY, PALETTE)), layouts)
def test_label_ids_are_the_stored_samples(picture, layout):
  data = encode(picture, **layout)
  if picture.samples.max() > 255:
    with pytest.raises(InputError, match=r'^a\.png: label ids'):
      decode_label(data, 'a.png')
  else:
    ids = decode_label(data, 'a.png')
    assert ids.dtype == np.uint8
    np.testing.assert_array_equal(ids, picture.samples[..., 0])


@fuzz
@given(
  mode=st.sampled_from(['L', 'RGB', 'CMYK']),
  file_format=st.sampled_from(['JPEG', 'PNG']),
  size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
  orientation=st.sampled_from(sorted(UPRIGHT)),
  options=st.fixed_dictionaries(
    {
      'quality': st.integers(1, 100),
      'progressive': st.booleans(),
      'subsampling': st.integers(0, 2),
      'restart_marker_blocks': st.integers(0, 3),
    }
  ),
  seed=st.integers(0, 99),
)
def test_photos_are_turned_upright_or_left_as_stored(mode, file_format, size, orientation, options, seed):
  """The pixels themselves are compared with what Pillow decodes on its own."""
  if file_format == 'PNG':
    mode = 'RGB' if mode == 'CMYK' else mode
  channels = {'L': (), 'RGB': (3,), 'CMYK': (4,)}[mode]
  stored = np.random.default_rng(seed).integers(0, 256, (*size, *channels)).astype(np.uint8)
  exif, buffer = Image.Exif(), io.BytesIO()
  exif[EXIF_ORIENTATION] = orientation
  Image.fromarray(stored, mode).save(buffer, file_format, exif=exif, **options)
  data = buffer.getvalue()
  with Image.open(io.BytesIO(data)) as image:
    assert image.mode == mode
    rgb = np.asarray(image.convert('RGB'))
  np.testing.assert_array_equal(decode_image(data, 'a', as_stored=True), rgb)
  np.testing.assert_array_equal(decode_image(data, 'a'), UPRIGHT[orientation](rgb))
  if orientation == 1:
    np.testing.assert_array_equal(decode_image(data, 'a', as_stored=None), rgb)
  else:
    with pytest.raises(InputError, match=rf'^a: .* EXIF orientation {orientation}'):
      decode_image(data, 'a', as_stored=None)


@st.composite
def label_sets(draw):
  """Sets of any ids, some of them ignored."""
  ids = draw(st.lists(st.integers(0, 255), min_size=1, max_size=40, unique=True))
  num_classes = draw(st.integers(1, len(ids)))
  classes = [[i] for i in ids[:num_classes]]
  ignored = []
  for label_id in ids[num_classes:]:
    draw(st.sampled_from([*classes, ignored])).append(label_id)
  return LabelSet(
    'drawn',
    tuple(LabelClass(f'class {i}', tuple(class_ids), (i, 0, 0)) for i, class_ids in enumerate(classes)),
    tuple(ignored),
  )


@fuzz
@given(label_sets(), st.data())
def test_ids_become_classes_and_back(label_set, data):
  class_of_id = {i: index for index, c in enumerate(label_set.classes) for i in c.ids}
  class_of_id |= dict.fromkeys(label_set.ignore_ids, IGNORE_LABEL)
  known = st.sampled_from(sorted(class_of_id))
  ids = data.draw(st_numpy.arrays(np.uint8, (3, 3), elements=st.one_of(known, known, st.integers(0, 255))))
  unknown = {int(i) for i in ids.flat} - class_of_id.keys()
  if unknown:
    with pytest.raises(InputError, match=r'^town/a: unknown label ids') as caught:
      label_set.encode(ids, 'town/a')
    assert all(f'{i} ({np.sum(ids == i)} pixels)' in str(caught.value) for i in unknown)
    return
  labels = label_set.encode(ids, 'town/a')
  assert labels.dtype == np.uint8
  assert labels.tolist() == [[class_of_id[int(i)] for i in row] for row in ids]
  again = label_set.encode(label_set.decode(labels), 'town/a')
  if label_set.ignore_ids or IGNORE_LABEL not in labels:
    np.testing.assert_array_equal(again, labels)
  np.testing.assert_array_equal(LabelSet.from_json(label_set.to_json(), 'x').encode(ids, 'a'), labels)
