"""What the record of a folder of predictions says after several calls."""

import fcntl
import json
import os
import pathlib
import threading

import numpy as np
import pytest

from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.evaluation.prediction_folder import FOLDERS, PredictionFolder, variables_digest
from dense_aspp_jax.label_sets import CAMVID_11, CITYSCAPES_20

PIXELS = np.zeros((2, 3), np.uint8)
MADE_BY = {
  'as_stored': False,
  'step': 10,
  'weights': 'raw',
  'bn': 'running',
  'config': {'model': {'growth': 64}, 'data': {'image_size': (32, 64), 'dataset': 'camvid'}},
  'label_set': CITYSCAPES_20.to_json(),
  'test_time': None,
  'variables_sha256': 'a' * 64,
}


def write(folder, *names, made_by=MADE_BY, refused=None, left=(), source='in'):
  images = {name: pathlib.Path(source, f'{name}.jpg') for name in names}
  refused = dict(refused or {})
  with PredictionFolder(folder, made_by, images, refused, left) as predictions:
    for name in names:
      predictions.save(name, [PIXELS] * len(FOLDERS))


def record(folder):
  return json.loads((folder / 'predictions.json').read_text())


def test_calls_with_other_images_add_up(tmp_path):
  write(tmp_path, 'a', 'day/b', refused={'c': 'why', 'd': 'damaged'}, left=['in/x.txt: .txt'])
  elsewhere = {**MADE_BY, 'workdir': 'moved', 'config': {**MADE_BY['config'], 'seed': 2}}
  write(tmp_path, 'c', made_by=elsewhere, left=['in/y.txt: .txt'])
  written = record(tmp_path)
  assert written['images'] == 3
  assert written['sources'] == {name: os.path.abspath(f'in/{name}.jpg') for name in ('a', 'c', 'day/b')}
  assert (written['refused'], written['unrecorded']) == ({'d': 'damaged'}, [])
  assert written['left'] == ['in/x.txt: .txt', 'in/y.txt: .txt']
  assert written['label_set'] == CITYSCAPES_20.to_json()
  (tmp_path / 'label_ids' / 'a.png').unlink()
  write(tmp_path, 'e')
  assert sorted(record(tmp_path)['sources']) == ['c', 'day/b', 'e']


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'step': 20}, 'step 10, now 20'),
    ({'variables_sha256': 'b' * 64}, 'different weights'),
    ({'label_set': CAMVID_11.to_json()}, 'different label set'),
    ({'test_time': {'flip': True}}, 'different test-time averaging'),
    ({'config': {'model': {'growth': 32}}}, 'different model'),
    ({'config': {'data': {'image_size': (64, 64)}}}, 'different image_size'),
  ],
)
def test_another_network_is_not_mixed_in(tmp_path, change, message, capsys):
  write(tmp_path, 'a', 'b')
  with pytest.raises(InputError, match=rf'2 predictions .*{message}.*; 1 of them would remain, such as b'):
    write(tmp_path, 'a', 'c', made_by=MADE_BY | change)
  assert sorted(record(tmp_path)['sources']) == ['a', 'b']
  write(tmp_path, 'a', 'b', 'c', made_by=MADE_BY | change)  # replaces all
  assert 'replacing the 2 predictions' in capsys.readouterr().err
  assert sorted(record(tmp_path)['sources']) == ['a', 'b', 'c']


def test_what_is_to_be_replaced_by_another_network_never_stays(tmp_path):
  write(tmp_path, 'a', 'b')
  with pytest.raises(KeyboardInterrupt):
    stop_after_one(tmp_path, MADE_BY | {'step': 20})
  assert [p.name for p in (tmp_path / 'label_ids').iterdir()] == ['a.png']
  assert (record(tmp_path)['images'], record(tmp_path)['step']) == (1, 20)


def stop_after_one(folder, made_by):
  images = {name: pathlib.Path(f'{name}.jpg') for name in 'ab'}
  with PredictionFolder(folder, made_by, images, {}) as predictions:
    predictions.save('a', [PIXELS] * len(FOLDERS))
    raise KeyboardInterrupt


def test_two_calls_at_a_time(tmp_path):
  first = PredictionFolder(tmp_path, MADE_BY, {'a': pathlib.Path('a.png')}, {})
  with first:
    write(tmp_path, 'b')
    first.save('a', [PIXELS] * len(FOLDERS))
  assert sorted(record(tmp_path)['sources']) == ['a', 'b']


def test_a_record_is_written_when_no_other_call_writes_it(tmp_path):
  folder = os.open(tmp_path, os.O_RDONLY)
  fcntl.flock(folder, fcntl.LOCK_EX)  # as another call that has read the record and is about to write it
  late = threading.Thread(target=write, args=(tmp_path, 'a'))
  late.start()
  late.join(0.3)
  assert not (tmp_path / 'predictions.json').exists()
  os.close(folder)
  late.join()
  assert list(record(tmp_path)['sources']) == ['a']


def test_a_prediction_of_another_image_is_replaced_with_a_warning(tmp_path, capsys):
  write(tmp_path, 'a')
  write(tmp_path, 'a')
  assert 'warning' not in capsys.readouterr().err
  write(tmp_path, 'a', source='other')
  assert f'such as that of {os.getcwd()}/in/a.jpg by that of other/a.jpg' in capsys.readouterr().err
  assert record(tmp_path)['sources'] == {'a': os.path.abspath('other/a.jpg')}


def test_records_of_old_versions_and_pictures_without_record(tmp_path, capsys):
  write(tmp_path, 'a', 'b')
  old = {k: v for k, v in record(tmp_path).items() if k not in ('sources', 'unrecorded', 'variables_sha256')}
  (tmp_path / 'predictions.json').write_text(json.dumps(old))
  write(tmp_path, 'c')
  assert record(tmp_path)['sources'] == {'a': None, 'b': None, 'c': os.path.abspath('in/c.jpg')}
  (tmp_path / 'predictions.json').unlink()
  write(tmp_path, 'c')
  assert '2 PNGs of which predictions.json knows nothing, such as a.png' in capsys.readouterr().err
  assert (record(tmp_path)['images'], record(tmp_path)['unrecorded']) == (1, ['a', 'b'])


@pytest.mark.parametrize(
  'text',
  [
    *('{', '[]', '{"sources": []}', '{"sources": {"a": 5}}', '{"refused": 1}', '{"left": [1]}'),
    *('{"config": null}', '{"config": {"data": "image_size"}}', '{"label_set": 1}'),
  ],
)
def test_a_record_that_is_none(tmp_path, text):
  (tmp_path / 'predictions.json').write_text(text)
  with pytest.raises(InputError, match=r'predictions\.json'):
    write(tmp_path, 'a')
  assert (tmp_path / 'predictions.json').read_text() == text


def test_what_was_written_is_recorded_when_a_later_picture_cannot_be(tmp_path):
  (tmp_path / 'overlay' / 'b.png' / 'x').mkdir(parents=True)
  with pytest.raises(RunError, match=r'overlay/b\.png: cannot be written'):
    write(tmp_path, 'a', 'b', 'c')
  assert (record(tmp_path)['images'], sorted(record(tmp_path)['sources'])) == (1, ['a'])
  assert record(tmp_path)['unrecorded'] == ['b']  # its label ids stand there


def test_a_digest_of_names_types_shapes_and_values():
  def digest(**params):
    return variables_digest({'params': params})

  x = np.arange(6, dtype=np.float32)
  others = [{'b': x}, {'a': x.astype(np.float64)}, {'a': x.reshape(2, 3)}, {'a': x + 1}, {'a': x, 'b': x}]
  assert digest(b=x, a=x + 1) == digest(a=x + 1, b=x)
  assert len({digest(a=x), *(digest(**other) for other in others)}) == 1 + len(others)
