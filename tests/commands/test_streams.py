"""Whatever becomes of standard output and standard error, a command goes on to its end."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Prints in all ways, then does what must not be lost, and says on which descriptor its file was opened.
PROGRAM = """
import os, sys
from dense_aspp_jax.commands.streams import lasting_streams
from dense_aspp_jax.progress import progress, say
with lasting_streams() as failures:
  for _ in range(3):
    print('\\u9053\\u8def', '\\udcff', flush=True)
    say('\\u9053\\u8def \\udcff')
  list(progress(range(2), '\\u9053'))
  with open('done', 'w') as file:
    file.write(f'{file.fileno() > 2}')
sys.exit(bool(failures))
"""


def run(tmp_path, redirection='', **environment):
  command = f'"$PYTHON" -c "$PROGRAM" {redirection}'
  environment = {
    **os.environ,
    'PYTHON': sys.executable,
    'PROGRAM': PROGRAM,
    'PYTHONPATH': str(ROOT),
    **environment,
  }
  done = subprocess.run(
    ['bash', '-o', 'pipefail', '-c', command], cwd=tmp_path, env=environment, capture_output=True, check=False
  )
  return done.returncode, done.stdout.decode('latin-1'), done.stderr.decode('latin-1')


@pytest.mark.parametrize(
  'redirection', ['| true', '>&-', '2>&-', '<&- >&- 2>&-', '2>&1 | true', '2> /dev/full']
)
def test_a_stream_that_is_closed_or_full_ends_no_command(redirection, tmp_path):
  code, _, error = run(tmp_path, redirection)
  assert (code, 'Traceback' in error) == (0, False)
  assert (tmp_path / 'done').read_text() == 'True'


def test_results_that_could_not_be_printed_are_a_failure(tmp_path):
  code, _, error = run(tmp_path, '> /dev/full')
  assert code == 1
  assert 'standard output could not be written (No space left on device)' in error
  assert (tmp_path / 'done').exists()


@pytest.mark.parametrize('encoding', ['latin-1', 'ascii'])
def test_characters_that_a_stream_lacks_are_escaped(encoding, tmp_path):
  code, output, error = run(tmp_path, PYTHONIOENCODING=encoding)
  assert code == 0
  assert output.splitlines() == [r'\u9053\u8def \udcff'] * 3
  assert r'\u9053\u8def \udcff' in error


def test_an_unbuffered_stream_stays_one(tmp_path):
  program = """
import os
from dense_aspp_jax.commands.streams import lasting_streams
with lasting_streams():
  print('first')
  os.write(1, b'second')
"""
  assert run(tmp_path, PROGRAM=program, PYTHONUNBUFFERED='1')[1] == 'first\nsecond'


def test_a_command_whose_results_are_lost_has_failed(tmp_path):
  command = [sys.executable, '-m', 'dense_aspp_jax.commands.main', 'parameters', '--config=camvid']
  with open('/dev/full', 'w') as full:
    done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
  assert done.returncode == 1
  assert 'No space left on device' in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.skipif(not hasattr(os, 'openpty'), reason='this system has no terminals of this kind')
def test_a_terminal_that_is_gone_is_no_failure(tmp_path):
  ours, theirs = os.openpty()
  environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
  program = f'import sys; sys.stdin.read()\n{PROGRAM}'
  process = subprocess.Popen(
    [sys.executable, '-c', program], cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=theirs
  )
  os.close(theirs)
  os.close(ours)
  process.communicate()
  assert (process.returncode, (tmp_path / 'done').read_text()) == (0, 'True')
