import json
import re

import jax
import pytest

from dense_aspp_jax.errors import RunError
from dense_aspp_jax.provenance import provenance, write_json


def test_provenance_names_code_libraries_and_device():
  found = provenance()
  json.dumps(found)
  assert found['libraries']['jax'] == jax.__version__
  assert len(found['devices']) == jax.device_count()
  assert found['git_commit'] is None or re.fullmatch(r'[0-9a-f]{40}(\+changes)?', found['git_commit'])


def test_json_is_written_whole_or_not_at_all(tmp_path):
  path = tmp_path / 'new' / 'x.json'
  write_json(path, {'a': [1, None]})
  with pytest.raises(ValueError, match='JSON'):
    write_json(path, {'a': float('nan')})
  assert json.loads(path.read_text()) == {'a': [1, None]}
  assert [p.name for p in path.parent.iterdir()] == ['x.json']


def test_a_place_that_cannot_be_written_is_a_failed_run(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(RunError, match=r'x\.json: cannot be written'):
    write_json(tmp_path / 'file' / 'x.json', {})
