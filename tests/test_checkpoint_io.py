"""One checkpoint: where it can lie, that what was written is read back, and what is no damage."""

import contextlib
import os
import pathlib
import resource
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from dense_aspp_jax import checkpoint_io
from dense_aspp_jax.checkpoint_io import check_place, load_checkpoint, read_record, save_checkpoint
from dense_aspp_jax.errors import InputError, RunError

ITEMS = {
  'params': {'a': {'w': np.arange(60000, dtype=np.float32).reshape(200, 300), 'b': np.ones(3, np.float32)}},
  'batch_stats': {'mean': np.ones(4, np.float32)},
}


def assert_holds_items(path):
  jax.tree.map(np.testing.assert_array_equal, load_checkpoint(path, ITEMS), ITEMS)


@pytest.mark.parametrize(
  'name',
  ['exp[1]', 'lr*', 'a?', 'a\\b', 'gs:', 's3:', '{a,b}', '100%', "it's", 'caf\u00e9', os.fsdecode(b'\xff')],
)
def test_any_name_of_a_folder_above_a_checkpoint_is_a_name(tmp_path, name):
  """To Orbax, TensorStore or etils some of them are patterns, separators or schemes."""
  path = tmp_path / name / 'run' / '4'
  path.parent.mkdir(parents=True)
  save_checkpoint(path, ITEMS, {'of': name})
  assert os.listdir(tmp_path) == [name]
  assert os.listdir(path.parent) == ['4']
  assert_holds_items(path)
  assert read_record(path) == {'of': name}


def test_a_pattern_in_a_path_does_not_reach_another_run(tmp_path):
  for name in ('lr*', 'lr-1'):
    (tmp_path / name).mkdir()
  other = {'params': {'a': {'w': np.zeros((200, 300), np.float32)}, 'of another run': np.ones(3, np.float32)}}
  first = checkpoint_io.start_saving(tmp_path / 'lr-1' / '4', other)
  second = checkpoint_io.start_saving(tmp_path / 'lr*' / '4', ITEMS)
  first.result()
  second.result()
  assert_holds_items(tmp_path / 'lr*' / '4')


def test_a_relative_path_is_one_from_the_current_folder(tmp_path, monkeypatch):
  (tmp_path / 'a[b]').mkdir()
  monkeypatch.chdir(tmp_path / 'a[b]')
  save_checkpoint(pathlib.Path('4'), ITEMS)
  assert_holds_items(tmp_path / 'a[b]' / '4')


def test_several_processes_are_refused_where_they_could_not_agree_on_a_path(tmp_path, monkeypatch):
  check_place(tmp_path / 'exp[1]')
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  check_place(tmp_path / 'exp-1')
  with pytest.raises(InputError, match=r'exp\[1\]: several processes need'):
    check_place(tmp_path / 'exp[1]')


def values_file(path):
  return max((p for p in path.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)


def flip_bit(path):
  data = bytearray(values_file(path).read_bytes())
  data[len(data) // 2] ^= 4
  values_file(path).write_bytes(data)


def truncate(path):
  values_file(path).write_bytes(values_file(path).read_bytes()[:1000])


def lose_index(path):
  (path / 'params' / 'manifest.ocdbt').unlink()


def lose_record(path):
  (path / '_CHECKPOINT_METADATA').write_text('{"custom_metadata": {"sha256": {}}}')


def lose_tree(path):
  (path / 'params' / '_METADATA').write_text('')


def lose_all(path):
  path.rename(path.with_name('elsewhere'))


def damage_what_is_written(monkeypatch, damage):
  """As a disk would that reports success."""
  save = ocp.save_checkpointables_async

  def save_badly(path, *args, **options):
    response = save(path, *args, **options)
    return types.SimpleNamespace(result=lambda: (response.result(), damage(pathlib.Path(path))))

  monkeypatch.setattr(ocp, 'save_checkpointables_async', save_badly)


@pytest.mark.parametrize('damage', [flip_bit, truncate, lose_index, lose_record, lose_tree, lose_all])
def test_what_cannot_be_read_back_was_not_saved(tmp_path, monkeypatch, damage):
  damage_what_is_written(monkeypatch, damage)
  with pytest.raises(RunError, match=r'4 could not be written \(ReadBackError: .*nothing was changed'):
    save_checkpoint(tmp_path / '4', ITEMS)


FULL = """
import pathlib, resource, sys
import numpy as np
from dense_aspp_jax.checkpoint_io import save_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
values = np.random.default_rng(0).random((8, 20000)).astype(np.float32)
try:
  save_checkpoint(pathlib.Path(sys.argv[1]) / '4', {'params': {str(i): x for i, x in enumerate(values)}})
except Exception as error:
  print(error)
"""


def test_a_limit_that_many_arrays_meet_is_one_line(tmp_path):
  command = [sys.executable, '-c', FULL, str(tmp_path)]
  process = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
  (line,) = (process.stdout + process.stderr).splitlines()
  assert 'could not be written' in line
  assert 'File too large' in line


def test_types_and_layouts_are_read_back(tmp_path):
  """Of all kinds of leaves; spread over eight devices."""
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ('data',))
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  halves = jax.numpy.ones((3, 5), jax.numpy.bfloat16)
  leaves = [np.arange(2**16, dtype=np.float32), np.int32(7), halves, np.array([True, False]), np.uint32([3])]
  items = {'tree': [jax.device_put(x, everywhere) for x in leaves]}
  save_checkpoint(tmp_path / '4', items)
  jax.tree.map(np.testing.assert_array_equal, load_checkpoint(tmp_path / '4', items), items)


@contextlib.contextmanager
def no_more_open_files():
  limits = resource.getrlimit(resource.RLIMIT_NOFILE)
  resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/dev/fd')), limits[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.filterwarnings('ignore')
def test_too_many_open_files_are_no_damage(tmp_path):
  save_checkpoint(tmp_path / '4', ITEMS)
  with (
    no_more_open_files(),
    pytest.raises(RunError, match=r'4: this checkpoint could not be read .*open files'),
  ):
    load_checkpoint(tmp_path / '4', ITEMS)
  assert_holds_items(tmp_path / '4')


def test_without_a_temporary_directory_the_checkpoint_is_not_blamed(tmp_path, monkeypatch):
  path = tmp_path / 'My Drive (1)' / '4'
  path.parent.mkdir()
  save_checkpoint(path, ITEMS)

  def none():
    raise FileNotFoundError(2, 'No usable temporary directory found')

  monkeypatch.setattr('tempfile.gettempdir', none)
  with pytest.raises(RunError, match=r'4: this checkpoint could not be read .*No usable temporary'):
    load_checkpoint(path, ITEMS)


@pytest.mark.parametrize(
  ('error', 'reason'),
  [
    (MemoryError(), 'memory'),
    (jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes'), 'memory'),
    (PermissionError(13, 'Permission denied', 'file'), 'Permission denied'),
    (OSError(5, 'Input/output error'), 'Input/output error'),
    (ValueError('PERMISSION_DENIED: Failed to open: "d/1" [os_error_code=\'13\']'), 'Permission denied'),
  ],
)
def test_what_the_system_refuses_is_no_damage(tmp_path, monkeypatch, error, reason):
  def refuse(*_):
    try:
      raise error
    except Exception as cause:
      raise KeyError('incompatible handler') from cause  # Orbax hides the reason like this

  save_checkpoint(tmp_path / '4', ITEMS)
  monkeypatch.setattr(ocp, 'load_checkpointables', refuse)
  with pytest.raises(RunError, match=rf'4: this checkpoint could not be read .*{reason}.*try again'):
    load_checkpoint(tmp_path / '4', ITEMS)


def test_without_devices_the_checkpoint_is_not_blamed(tmp_path, monkeypatch):
  def fail(*_):
    raise RuntimeError("Unable to initialize backend 'cuda'")

  save_checkpoint(tmp_path / '4', ITEMS)
  monkeypatch.setattr(jax, 'local_devices', fail)
  for read in (read_record, lambda path: load_checkpoint(path, ITEMS)):
    with pytest.raises(RuntimeError, match=r'^Unable to initialize backend'):
      read(tmp_path / '4')
