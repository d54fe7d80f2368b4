import pytest

from dense_aspp_jax.results.machine_paths import without_machine_paths


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('/home/some body/runs/a', 'a'),
    ('/home/x/runs/a/', 'a'),
    ('folder:/data/my camvid', 'folder:my camvid'),
    ('train.py --config=/home/x/c.py --workdir=/tmp/runs/a --config.seed=1', None),
    ("--config.data.data_dir='/data/tfds' (/opt/b, /opt/c)", "--config.data.data_dir='tfds' (b, c)"),
    ('file:///home/x/a', 'a'),
    # What is no absolute path.
    ('https://github.com/a/b', 'https://github.com/a/b'),
    ('runs/camvid ~/x ../y ./z a/b', 'runs/camvid ~/x ../y ./z a/b'),
    ('IoU = TP / (TP + FP + FN), images/s, 1/2', 'IoU = TP / (TP + FP + FN), images/s, 1/2'),
  ],
)
def test_of_an_absolute_path_the_last_part_stays(text, expected):
  expected = expected or 'train.py --config=c.py --workdir=a --config.seed=1'
  assert without_machine_paths(text) == expected


def test_json_is_walked():
  data = {'a': ['/x/y', 1, None, {'b': ('/z', 2.5, True)}]}
  assert without_machine_paths(data) == {'a': ['y', 1, None, {'b': ['z', 2.5, True]}]}
