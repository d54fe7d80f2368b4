import pytest
from tiny_network import tiny_config

from dense_aspp_jax.benchmark import input_speed, timing
from dense_aspp_jax.benchmark.input_speed import benchmark_input
from dense_aspp_jax.errors import InputError


@pytest.fixture
def config(monkeypatch, scene_folder, tmp_path):
  monkeypatch.setattr(timing, 'REPEAT_SECONDS', 0.01)
  monkeypatch.setattr('os.cpu_count', lambda: 1)
  data = {'dataset': f'folder:{scene_folder}', 'data_dir': str(tmp_path), 'image_size': (16, 32)}
  return tiny_config(**{f'data.{name}': value for name, value in data.items()})


def test_every_placement_and_number_of_workers_is_measured(config):
  result = benchmark_input(config, repeats=2)
  rows = result['settings']
  assert [(row['on_device'], row['num_workers']) for row in rows] == [(False, 0), (False, 1), (True, 0)]
  assert all(row['images_per_second'] == pytest.approx(8e3 / row['ms_per_step']) for row in rows)


def test_a_split_too_large_for_the_device_is_said_and_left_out(config, monkeypatch, capsys):
  train_batches = input_speed.train_batches

  def refuse(examples, *, on_device, num_workers, **kwargs):
    if on_device:
      raise InputError('the split takes 9 GiB')
    return train_batches(examples, on_device=False, num_workers=0, **kwargs)  # starts no process

  monkeypatch.setattr(input_speed, 'train_batches', refuse)
  rows = benchmark_input(config, repeats=1)['settings']
  assert [row['on_device'] for row in rows] == [False, False]
  assert 'not measured: the split takes 9 GiB' in capsys.readouterr().err
