"""Files of foreign weights: real ones, all types, and files made to do harm."""

import gzip
import hashlib
import pathlib
import pickle
import re
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch_files
from torch_files import View, call, integer, integers, name, pickled, text

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.weights.readers import check_sha256_prefix, read_tensors

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
FLOATS = View('FloatStorage', '0', 6, 0, (2, 3), (3, 1))  # all of a storage of 6 floats
BYTES = np.arange(6, dtype=np.float32).tobytes()

formats = pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])


def write(path, body, legacy, storages=None, count=6):
  """Writes opcodes that leave one object, and the storages, as a file of either format."""
  storages = {'0': BYTES} if storages is None else storages
  if legacy:
    path.write_bytes(torch_files.legacy_stream(pickled(body), storages, dict.fromkeys(storages, count)))
  else:
    torch_files.write_zip(path, pickled(body), storages)
  return path


def write_view(path, view, legacy, **options):
  return write(path, torch_files.state({'a': view}, legacy), legacy, **options)


def small_file(path, legacy):
  tensors = {'conv.weight': np.arange(6, dtype=np.float32).reshape(2, 3), 'n': np.array(7, np.int64)}
  torch_files.write_pth(path, tensors, legacy)
  return path.read_bytes()


# Real files and types.


@pytest.mark.parametrize('file', ['state_zip.pth', 'state_legacy.pth'])
def test_files_written_by_torch(file):
  expected = dict(np.load(GOLDEN / 'state.npz'))
  tensors = read_tensors(GOLDEN / file)
  assert list(tensors) == list(expected)
  for key, values in expected.items():
    dtype = np.dtype(ml_dtypes.bfloat16) if key == 'bfloat16' else values.dtype
    assert (tensors[key].dtype, tensors[key].shape) == (dtype, values.shape), key
    np.testing.assert_array_equal(tensors[key].astype(values.dtype), values, err_msg=key)
  assert tensors['transposed'].flags.c_contiguous
  tensors['transposed'][...] = 0  # a copy of its own, though the storage is shared
  assert np.all(tensors['slice_of_the_same_storage'] == expected['slice_of_the_same_storage'])


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('kind', ['zip', 'legacy', 'safetensors'])
def test_every_type_round_trips_whatever_the_file_is_called(tmp_path, kind, suffix):
  path = tmp_path / f'weights{suffix}'
  rng = np.random.default_rng(0)
  tensors = {
    dtype: rng.integers(0, 2, (3, 2)).astype(ml_dtypes.bfloat16 if dtype == 'bfloat16' else dtype)
    for dtype in torch_files.STORAGES
  }
  tensors |= {'scalar': np.array(5, np.int64), 'empty': np.zeros((0, 4), np.float32)}
  if kind == 'safetensors':
    torch_files.write_safetensors(path, tensors)
  else:
    torch_files.write_pth(path, tensors, legacy=kind == 'legacy')
  result = read_tensors(path)
  assert result.keys() == tensors.keys()
  for key, values in tensors.items():
    assert (result[key].dtype, result[key].shape) == (values.dtype, values.shape)
    assert result[key].tobytes() == values.tobytes()
    assert result[key].flags.writeable


def test_a_safetensors_type_that_is_not_supported_is_named(tmp_path):
  path = tmp_path / 'a.safetensors'
  torch_files.write_safetensors(path, {'count': np.zeros(2, np.uint64)})
  with pytest.raises(InputError, match=r"a.safetensors: refused: 'count' is of type U64"):
    read_tensors(path)


@formats
@pytest.mark.parametrize('key', ['state_dict', 'model', 'net', 'model_state_dict', 'anything'])
def test_a_state_dict_is_taken_out_of_its_wrapper(tmp_path, legacy, key):
  inner = torch_files.state({'a': FLOATS}, legacy)
  body = b'}(' + text('epoch') + integer(3) + text('loss') + b'N' + text(key) + inner + b'u'
  tensors = read_tensors(write(tmp_path / 'a.pth', body, legacy))
  assert list(tensors) == ['a']
  np.testing.assert_array_equal(tensors['a'], np.arange(6.0).reshape(2, 3))


def wrapped(**views):
  """Opcodes of a dict that has a state dict of one tensor, under each key; each value is nested as often."""
  body = b'}('
  for key, (tensor_name, depth) in views.items():
    inner = torch_files.state({tensor_name: FLOATS})
    for _ in range(depth - 1):
      inner = b'}(' + text('model') + inner + b'u'
    body += text(key) + inner
  return body + b'u'


def test_raw_weights_are_taken_before_moving_averages_and_that_is_said(tmp_path, capsys):
  path = write(tmp_path / 'a.pth', wrapped(state_dict_ema=('ema', 1), state_dict=('raw', 1)), legacy=False)
  assert list(read_tensors(path)) == ['raw']
  assert "'state_dict' is taken, and left: state_dict_ema; convert --ema" in capsys.readouterr().err
  assert list(read_tensors(path, ema=True)) == ['ema']


@pytest.mark.parametrize('key', ['model', 'checkpoint'])
def test_a_wrapper_may_stand_in_another(tmp_path, key):
  inner = wrapped(model_ema=('ema', 2), model=('raw', 2), optimizer=('momentum', 1))
  path = write(tmp_path / 'a.pth', b'}(' + text(key) + inner + b'u', legacy=False)
  assert list(read_tensors(path)) == ['raw']
  assert list(read_tensors(path, ema=True)) == ['ema']


def test_a_tensor_beside_the_state_dict_is_no_part_of_it(tmp_path):
  """PyTorch's own ImageNet example keeps the best accuracy so."""
  body = wrapped(state_dict=('raw', 1), state_dict_ema=('ema', 1))[:-1]
  body += text('best_acc1') + torch_files.tensor(FLOATS) + b'u'
  path = write(tmp_path / 'a.pth', body, legacy=False)
  assert list(read_tensors(path)) == ['raw']
  assert list(read_tensors(path, ema=True)) == ['ema']


def test_moving_averages_alone_are_taken_and_where_there_are_none_that_is_an_error(tmp_path):
  assert list(read_tensors(write(tmp_path / 'a.pth', wrapped(ema=('a', 1)), legacy=False))) == ['a']
  for body in (wrapped(state_dict=('raw', 1)), torch_files.state({'raw': FLOATS})):
    with pytest.raises(InputError, match='state_dict_ema'):
      read_tensors(write(tmp_path / 'a.pth', body, legacy=False), ema=True)


def test_dicts_of_unknown_names_are_listed(tmp_path):
  path = write(tmp_path / 'a.pth', wrapped(student=('a', 1), teacher=('b', 1)), legacy=False)
  with pytest.raises(InputError, match="'student', 'teacher'; expected tensors under state_dict"):
    read_tensors(path)


def test_a_tensor_named_model_is_no_wrapper(tmp_path):
  torch_files.write_pth(tmp_path / 'a.pth', {'model': np.ones(2), 'b': np.zeros(1)})
  assert list(read_tensors(tmp_path / 'a.pth')) == ['model', 'b']


@pytest.mark.parametrize('protocol', [3, 4])
def test_later_pickle_protocols(tmp_path, protocol):
  """STACK_GLOBAL, SHORT_BINUNICODE, MEMOIZE and FRAME, as torch.save(pickle_protocol=4) writes them."""
  body = torch_files.state({'a': FLOATS})
  if protocol == 4:
    short = b'\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93\x94'
    old = name('collections OrderedDict')
    body = b'\x95' + bytes(8) + short + body.removeprefix(old).replace(old, b'h\x02')
  torch_files.write_zip(tmp_path / 'a.pth', pickled(body, protocol), {'0': BYTES})
  np.testing.assert_array_equal(read_tensors(tmp_path / 'a.pth')['a'], np.arange(6.0).reshape(2, 3))


def test_dicts_and_strings_of_python_2(tmp_path):
  """There an OrderedDict is called with its items, and str is SHORT_BINSTRING."""
  pairs = b']](U\x01a' + torch_files.tensor(FLOATS, legacy=True) + b'ea'
  path = write(tmp_path / 'a.pth', call('collections OrderedDict', [pairs]), legacy=True)
  np.testing.assert_array_equal(read_tensors(path)['a'], np.arange(6.0).reshape(2, 3))


# Checksums.


def test_checksum_in_the_name(tmp_path):
  digest = hashlib.sha256(b'weights').hexdigest()
  for file in (f'net-{digest[:8]}.pth', f'a-b-{digest}.safetensors', 'net.pth', 'net-1234567.pth'):
    (tmp_path / file).write_bytes(b'weights')
    assert check_sha256_prefix(tmp_path / file) == digest
  wrong = tmp_path / 'densenet121-a639ec97.pth'
  wrong.write_bytes(b'weights')
  with pytest.raises(InputError, match=rf'a639ec97\.pth: its SHA-256 is {digest}, its name says a639ec97'):
    check_sha256_prefix(wrong)


@pytest.mark.parametrize('function', [read_tensors, check_sha256_prefix])
def test_a_file_that_cannot_be_read(tmp_path, function):
  with pytest.raises(InputError, match=r'none\.pth: cannot be read \(No such file'):
    function(tmp_path / 'none.pth')
  with pytest.raises(InputError, match=r'cannot be read \(Is a directory'):
    function(tmp_path)


# Code.


@formats
@pytest.mark.parametrize(
  'function',
  [
    'os system',
    'posix system',
    'subprocess check_output',
    'builtins eval',
    '__builtin__ eval',
    'builtins getattr',
    'operator attrgetter',
    'collections OrderedDict.__init__.__globals__',
    'collections Counter',
    'torch._utils _rebuild_tensor_v2.__globals__',
    'torch load',
    'torch.storage _load_from_bytes',
    'numpy.core.multiarray _reconstruct',
  ],
)
@pytest.mark.parametrize('where', ['alone', 'in a wrapper', 'as a hook'])
def test_names_outside_the_list_are_refused_and_named(tmp_path, legacy, function, where):
  ran = tmp_path / 'ran'
  payload = call(function, [text(f'touch {ran}')])
  body = {
    'alone': payload,
    'in a wrapper': b'}(' + text('state_dict') + b'}' + text('other') + payload + b'u',
    'as a hook': torch_files.state({'a': FLOATS}, legacy).replace(
      call('collections OrderedDict', []) + b'tR', payload + b'tR'
    ),
  }[where]
  path = write(tmp_path / 'a.pth', body, legacy)
  assert payload in path.read_bytes()
  with pytest.raises(InputError) as caught:
    read_tensors(path)
  assert str(caught.value).startswith(f"{path}: refused: the pickle refers to '{function.replace(' ', '.')}'")
  assert not ran.exists()


class Payload:
  """Touches a file when a pickle of it is loaded."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return open, (self.path, 'w')


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_bare_pickle_of_any_protocol_runs_nothing(tmp_path, protocol):
  ran = tmp_path / 'ran'
  path = tmp_path / 'a.pth'
  path.write_bytes(pickle.dumps(Payload(ran), protocol))
  message = r"the pickle refers to '(io|builtins|__builtin__)\.open'" if protocol >= 2 else 'not a torch'
  with pytest.raises(InputError, match=f'refused: {message}'):
    read_tensors(path)
  assert not ran.exists()
  pickle.loads(path.read_bytes()).close()
  assert ran.exists()  # the payload would have worked


@formats
@pytest.mark.parametrize(
  ('body', 'message'),
  [
    (b'(ios\nsystem\n', r"INST 'os system'"),
    (b'(' + name('collections OrderedDict') + b'o', 'OBJ'),
    (name('collections OrderedDict') + b')\x81', 'NEWOBJ'),
    (b'\x82\x01', 'EXT1'),
    (b'P0\n', 'PERSID'),
  ],
)
def test_opcodes_that_make_objects_are_refused_and_named(tmp_path, legacy, body, message):
  with pytest.raises(InputError, match=f'refused: the pickle has the opcode {message}'):
    read_tensors(write(tmp_path / 'a.pth', body, legacy))


@formats
def test_storage_types_are_not_called(tmp_path, legacy):
  path = write(tmp_path / 'a.pth', call('torch FloatStorage', [integer(10)]), legacy)
  with pytest.raises(InputError, match=r"refused: .*'torch\.FloatStorage'"):
    read_tensors(path)


@formats
def test_attributes_change_nothing(tmp_path, legacy):
  """BUILD on a function would set its defaults if it were one."""
  body = name('torch._utils _rebuild_tensor_v2') + b'N}' + text('__defaults__') + b')s\x86b'
  with pytest.raises(InputError, match='a Global stands where a dict is expected'):
    read_tensors(write(tmp_path / 'a.pth', body, legacy))


# Tensors and storages.


@formats
@pytest.mark.parametrize(
  ('view', 'message'),
  [
    (FLOATS._replace(offset=1), 'reaches outside its storage'),
    (FLOATS._replace(shape=(3, 3)), 'reaches outside its storage'),
    (FLOATS._replace(strides=(4, 1)), 'reaches outside its storage'),
    (FLOATS._replace(shape=(1,), strides=(1,), offset=6), 'reaches outside its storage'),
    (FLOATS._replace(offset=-1), 'not integers of at least 0'),
    (FLOATS._replace(offset=5, strides=(-3, -1)), 'not integers of at least 0'),
    (FLOATS._replace(shape=(-2, -3)), 'not integers of at least 0'),
    (FLOATS._replace(strides=(0, 0), shape=(10**6, 10**6)), 'has more elements than its storage'),
    (FLOATS._replace(strides=(0, 1), shape=(3, 3)), 'has more elements than its storage'),
    (FLOATS._replace(strides=(3,)), '2 dimensions and 1 strides'),
    (FLOATS._replace(strides=(1,) * 65, shape=(1,) * 65), '65 dimensions'),
    (FLOATS._replace(shape=(0, 2**70)), 'damaged'),
    (FLOATS._replace(storage='ComplexFloatStorage'), r"'torch\.ComplexFloatStorage'"),
  ],
)
def test_views_are_checked_against_their_storage(tmp_path, legacy, view, message):
  with pytest.raises(InputError, match=message):
    read_tensors(write_view(tmp_path / 'a.pth', view, legacy))


@formats
def test_sizes_that_are_no_integers(tmp_path, legacy):
  for wrong in (b'\x88', b'N', text('2')):
    body = torch_files.state({'a': FLOATS}, legacy).replace(
      integers((2, 3)), b'(' + wrong + integer(3) + b't'
    )
    with pytest.raises(InputError, match='not integers of at least 0'):
      read_tensors(write(tmp_path / 'a.pth', body, legacy))


@formats
@pytest.mark.parametrize('count', [-1, 5, 7, 2**40, 2**70])
def test_storages_of_another_size_than_claimed(tmp_path, legacy, count):
  view = FLOATS._replace(count=count, shape=(1,), strides=(1,))
  path = write_view(tmp_path / 'a.pth', view, legacy)
  message = {-1: 'not that of a storage', False: 'has 24 bytes', True: 'has 6 elements'}
  with pytest.raises(InputError, match=message[-1 if count < 0 else legacy]):
    read_tensors(path)


@pytest.mark.parametrize('count', [7, 2**40])
def test_a_legacy_storage_larger_than_the_file(tmp_path, count):
  view = FLOATS._replace(count=count)
  with pytest.raises(InputError, match='refused: cut off'):
    read_tensors(write_view(tmp_path / 'a.pth', view, legacy=True, count=count))


def test_storages_that_are_missing(tmp_path):
  with pytest.raises(InputError, match=r"no item named 'archive/data/0'"):
    read_tensors(write_view(tmp_path / 'a.pth', FLOATS, legacy=False, storages={}))
  for storages in ({}, {'0': BYTES, '1': BYTES}):
    with pytest.raises(InputError, match='storages'):
      read_tensors(write_view(tmp_path / 'a.pth', FLOATS, legacy=True, storages=storages))


def test_a_legacy_storage_that_is_a_view(tmp_path):
  body = torch_files.state({'a': FLOATS}, legacy=True).replace(b'NtQ', integers((0, 6)) + b'tQ')
  with pytest.raises(InputError, match='a storage is a view of another one'):
    read_tensors(write(tmp_path / 'a.pth', body, legacy=True))


@formats
def test_many_views_of_one_storage_are_refused_before_they_fill_the_memory(tmp_path, legacy):
  count = 10**6
  view = FLOATS._replace(count=count, shape=(count,), strides=(1,))
  data = {'0': bytes(4 * count)}
  two = write(tmp_path / 'two.pth', torch_files.state({'a': view, 'b': view}, legacy), legacy, data, count)
  assert {k: v.shape for k, v in read_tensors(two).items()} == {'a': (count,), 'b': (count,)}
  views = {str(i): view for i in range(100)}
  with pytest.raises(InputError, match='its tensors overlap'):
    read_tensors(write(tmp_path / 'many.pth', torch_files.state(views, legacy), legacy, data, count))


# What else a file may hold.


@formats
@pytest.mark.parametrize(
  ('body', 'message'),
  [
    (b']', 'it holds an object of type list'),
    (integer(3), 'it holds an object of type int'),
    (b'}' + text('epoch') + integer(3) + b's', "'epoch' is an object of type int"),
    (b'}' + text('state_dict') + b'}' + text('x') + b'}ss', "'x' is an object of type dict"),
    (b'}' + integer(0) + b'Ns', "'0' is an object of type NoneType"),
    (b'})Ns', 'a tuple is the key of a dict'),
    (b'}b', 'damaged'),
    (b'0', 'the opcode POP'),
    (b'N' + integer(1), 'damaged'),
    (b'(N', 'damaged'),
    (b'h\x07', 'KeyError'),
    (text('x') + b'Q', 'a persistent id is not that of a storage'),
  ],
)
def test_anything_but_named_tensors_is_refused(tmp_path, legacy, body, message):
  with pytest.raises(InputError, match=message) as caught:
    read_tensors(write(tmp_path / 'a.pth', body, legacy, storages={}))
  assert str(caught.value).startswith(f'{tmp_path / "a.pth"}: ')
  assert '\n' not in str(caught.value)


@formats
def test_keys_that_would_take_forever_to_hash(tmp_path, legacy):
  nested = b')' + b'q\x00h\x00\x86' * 60  # each tuple holds the one before twice
  with pytest.raises(InputError, match='a tuple is the key of a dict'):
    read_tensors(write(tmp_path / 'a.pth', b'}' + nested + b'Ns', legacy))


@formats
def test_one_list_passed_to_many_calls_is_refused_before_it_fills_the_memory(tmp_path, legacy):
  pairs = b'](' + b''.join(integer(i) + b'N\x86' for i in range(2000)) + b'eq\x01'
  calls = (name('collections OrderedDict') + b'h\x01\x85R') * 60
  with pytest.raises(InputError, match='more than 100000 items'):
    read_tensors(write(tmp_path / 'bomb.pth', b'](' + pairs + calls + b'e', legacy))


@formats
def test_memo_indices_and_depth_cost_nothing(tmp_path, legacy):
  deep = b'}(' + text('deep') + b')' + b'\x85' * 200_000 + b'r\xff\xff\xff\x7f'
  body = deep + text('model') + torch_files.state({'a': FLOATS}, legacy) + b'u'
  assert list(read_tensors(write(tmp_path / 'a.pth', body, legacy))) == ['a']


# The containers.


def test_compressed_members_are_refused(tmp_path):
  storages = {'0': bytes(10**7)}
  body = pickled(torch_files.state({'a': FLOATS._replace(count=10**7 // 4)}))
  torch_files.write_zip(tmp_path / 'a.pth', body, storages, compression=zipfile.ZIP_DEFLATED)
  with pytest.raises(InputError, match=r"'archive/data.pkl' .* compressed"):
    read_tensors(tmp_path / 'a.pth')


def test_members_larger_than_the_file_are_refused(tmp_path):
  """Every entry of the directory points at the same bytes, as in zip bombs without compression."""
  path = tmp_path / 'a.pth'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', pickled(b'}'))
    archive.writestr('archive/data/0', bytes(10**5))
    (info,) = [i for i in archive.filelist if i.filename.endswith('0')]
    archive.filelist += [info] * 2  # written to the directory thrice
  with pytest.raises(InputError, match='two members of the archive have one name'):
    read_tensors(path)
  data = path.read_bytes()
  for index in (1, 2):  # each its own name in the directory
    at = data.rindex(b'archive/data/0')
    data = data[:at] + b'archive/data/%d' % index + data[at + 14 :]
  path.write_bytes(data)
  with pytest.raises(InputError, match='together they are larger than the file'):
    read_tensors(path)


@pytest.mark.parametrize('count', [0, 2])
def test_archives_without_one_pickle(tmp_path, count):
  with zipfile.ZipFile(tmp_path / 'a.pth', 'w') as archive:
    archive.writestr('readme', 'x')
    for index in range(count):
      archive.writestr(f'{index}/data.pkl', pickled(b'}'), zipfile.ZIP_DEFLATED)
  with pytest.raises(InputError, match=f'{count} members data.pkl; .* unpack them first'):
    read_tensors(tmp_path / 'a.pth')


def test_big_endian_files_are_refused(tmp_path):
  body = pickled(torch_files.state({'a': FLOATS}))
  torch_files.write_zip(tmp_path / 'a.pth', body, {'0': BYTES}, byteorder=b'big')
  with pytest.raises(InputError, match='byte order is not little endian'):
    read_tensors(tmp_path / 'a.pth')
  body = pickled(torch_files.state({'a': FLOATS}, legacy=True))
  stream = torch_files.legacy_stream(body, {'0': BYTES}, {'0': 6}, little_endian=False)
  (tmp_path / 'a.pth').write_bytes(stream)
  with pytest.raises(InputError, match='byte order is not little endian'):
    read_tensors(tmp_path / 'a.pth')


@pytest.mark.parametrize('wrong', [{'magic_number': 1}, {'protocol': 1000}])
def test_streams_of_other_programs_are_refused(tmp_path, wrong):
  body = pickled(torch_files.state({'a': FLOATS}, legacy=True))
  (tmp_path / 'a.pth').write_bytes(torch_files.legacy_stream(body, {'0': BYTES}, {'0': 6}, **wrong))
  with pytest.raises(InputError, match='magic number'):
    read_tensors(tmp_path / 'a.pth')


@pytest.mark.parametrize('content', [b'PK\x03\x04', b'\x80\x02}q\x00X', bytes(8) + b'{'])
def test_a_damaged_file(tmp_path, content):
  (tmp_path / 'a.pth').write_bytes(content)
  with pytest.raises(InputError, match=r'a\.pth: damaged'):
    read_tensors(tmp_path / 'a.pth')


@pytest.mark.parametrize(
  ('content', 'what'),
  [
    (b'', 'empty'),
    (b'404: Not Found', "begins with b'404: Not Found'"),
    (bytes(100), 'begins with'),
    (b'\x89PNG\r\n\x1a\n', 'PNG'),
    (b'\n<!DOCTYPE html><html>', 'a web page'),
    (b'<html>not found</html>', 'a web page'),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:12\n', 'git lfs pull'),
    (gzip.compress(b'weights', mtime=0), 'unpack it'),
    (b'\x89HDF\r\n\x1a\n', 'HDF'),
  ],
)
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_what_stands_in_place_of_weights_is_not_called_damaged(tmp_path, content, what, suffix):
  path = tmp_path / f'a{suffix}'
  path.write_bytes(content)
  with pytest.raises(InputError, match=re.escape(what)) as error:
    read_tensors(path)
  assert 'damaged' not in str(error.value)


def test_a_torchscript_archive_is_named_with_its_remedy(tmp_path):
  with zipfile.ZipFile(tmp_path / 'a.pt', 'w', zipfile.ZIP_DEFLATED) as archive:  # torch compresses the code
    archive.writestr('a/code/__torch__/net.py', 'def forward(self, x): ...' * 10)
  with pytest.raises(InputError, match=r'TorchScript.*torch\.jit\.load\(FILE\)\.state_dict'):
    read_tensors(tmp_path / 'a.pt')


@formats
def test_other_objects_are_refused_with_the_remedy(tmp_path, legacy):
  arguments = call('argparse Namespace', [])
  body = (
    b'}(' + text('args') + arguments + text('state_dict') + torch_files.state({'a': FLOATS}, legacy) + b'u'
  )
  with pytest.raises(InputError, match=r"'argparse\.Namespace'.*torch\.save\(torch\.load\(FILE"):
    read_tensors(write(tmp_path / 'a.pth', body, legacy))


@formats
def test_truth_values_that_are_neither_0_nor_1(tmp_path, legacy):
  view = View('BoolStorage', '0', 6, 0, (6,), (1,))
  body = torch_files.state({'a': view}, legacy)
  path = write(tmp_path / 'a.pth', body, legacy, {'0': bytes([0, 1, 0, 1, 1, 0])})
  assert read_tensors(path)['a'].tolist() == [False, True, False, True, True, False]
  path = write(tmp_path / 'a.pth', body, legacy, {'0': bytes([0, 1, 2, 1, 1, 0])})
  with pytest.raises(InputError, match=r"'a' .* neither 0 nor 1"):
    read_tensors(path)


def test_a_legacy_storage_that_is_described_in_two_ways(tmp_path):
  body = torch_files.state({'a': FLOATS, 'b': FLOATS._replace(count=7)}, legacy=True)
  with pytest.raises(InputError, match='storage that they share'):
    read_tensors(write(tmp_path / 'a.pth', body, legacy=True))


def test_a_pickle_of_a_protocol_that_does_not_exist(tmp_path):
  body = pickled(torch_files.state({'a': FLOATS}), protocol=pickle.HIGHEST_PROTOCOL + 1)
  torch_files.write_zip(tmp_path / 'a.pth', body, {'0': BYTES})
  with pytest.raises(InputError, match=r'protocol 6; .* 5'):
    read_tensors(tmp_path / 'a.pth')


# Damage.


def kinds_of_file(folder):
  small_file(folder / 'zip', legacy=False)
  small_file(folder / 'legacy', legacy=True)
  torch_files.write_safetensors(folder / 'safetensors', {'a': np.ones((2, 3), np.float32)})
  return {kind: (folder / kind).read_bytes() for kind in ('zip', 'legacy', 'safetensors')}


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'safetensors'])
def test_a_file_cut_off_anywhere(tmp_path, kind):
  data, path = kinds_of_file(tmp_path)[kind], tmp_path / 'cut'
  for length in range(len(data)):
    path.write_bytes(data[:length])
    with pytest.raises(InputError):
      read_tensors(path)


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'safetensors'])
def test_random_damage_gives_an_input_error_or_arrays(tmp_path, kind):
  data, path = kinds_of_file(tmp_path)[kind], tmp_path / 'damaged'
  rng = np.random.default_rng(0)
  num_read, messages = 0, []
  for _ in range(500):
    damaged = bytearray(data)
    for position in rng.integers(0, len(data), rng.integers(1, 4)):
      damaged[position] = rng.integers(256)
    path.write_bytes(damaged)
    try:
      num_read += all(isinstance(array, np.ndarray) for array in read_tensors(path).values())
    except InputError as error:
      messages.append(str(error))
  assert num_read
  assert messages
  assert num_read + len(messages) == 500
  assert all(message.startswith(f'{path}: ') and '\n' not in message for message in messages)
