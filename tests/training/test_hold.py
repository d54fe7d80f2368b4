"""The lock on a run's directory: what holds it, and what does not."""

import errno
import fcntl
import shutil

import pytest

from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.training.hold import hold


def test_a_second_training_is_refused(tmp_path):
  with hold(tmp_path), pytest.raises(InputError, match='another process is training there'), hold(tmp_path):
    pytest.fail('entered')
  with hold(tmp_path) as verify:
    verify()


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_warned_of_and_used(number, tmp_path, monkeypatch, capsys):
  def without_locks(*_):
    raise OSError(number, 'no locks here')

  monkeypatch.setattr(fcntl, 'flock', without_locks)
  with hold(tmp_path) as first:
    first()
    assert f'warning: {tmp_path}: this file system has no locks (no locks here)' in capsys.readouterr().err
    with hold(tmp_path) as second:
      second()
      with pytest.raises(RunError, match='another training has begun there'):
        first()


def test_a_full_disk_is_one_message(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr('os.write', full)
  with pytest.raises(RunError, match=r'\.lock: cannot be written \(No space left'), hold(tmp_path):
    pytest.fail('entered')


@pytest.mark.parametrize('number', [errno.EWOULDBLOCK, errno.EACCES])
def test_a_lock_of_another_machine_is_a_lock(number, tmp_path, monkeypatch):
  def locked(*_):
    raise OSError(number, 'locked')

  monkeypatch.setattr(fcntl, 'flock', locked)
  with pytest.raises(InputError, match='another process is training there'), hold(tmp_path):
    pytest.fail('entered')


def test_a_save_that_failed_because_the_directory_is_gone_says_so(tmp_path):
  workdir = tmp_path / 'work'

  def fail(reason):
    raise RunError(reason)

  with pytest.raises(RunError, match='the disk is full'), hold(workdir):
    fail('the disk is full')
  with pytest.raises(RunError, match=f'{workdir}: removed while the run trained'), hold(workdir):
    fail(shutil.rmtree(workdir))


def test_a_checkpoint_that_came_too_late_is_named(tmp_path):
  workdir = tmp_path / 'work'

  def save_late():
    workdir.rename(tmp_path / 'renamed')
    (workdir / 'checkpoints' / 'latest').mkdir(parents=True)  # as Orbax does
    (workdir / 'checkpoints' / 'latest' / 'x').write_text('')
    raise RunError('not read back')

  with (
    pytest.raises(RunError, match=rf'renamed to {tmp_path}/renamed.*just being saved is in {workdir}/'),
    hold(workdir),
  ):
    save_late()


def test_a_training_that_found_no_lock_file_has_begun_there(tmp_path):
  with hold(tmp_path) as first:
    (tmp_path / '.lock').unlink()
    with hold(tmp_path), pytest.raises(RunError, match='another training has begun there'):
      first()
