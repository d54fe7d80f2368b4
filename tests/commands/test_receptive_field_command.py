import json
import pathlib

import jax
import jax.numpy as jnp
import optax
import pytest
from PIL import Image

from configs import default
from dense_aspp_jax.analysis.field_propagation import propagate_field
from dense_aspp_jax.analysis.figures import save_figure
from dense_aspp_jax.analysis.receptive_field import SHARES, cascade_paths, effective_figure, measure_field
from dense_aspp_jax.commands.main import main
from dense_aspp_jax.label_sets import CITYSCAPES_20
from dense_aspp_jax.models.segmentation import create_model
from dense_aspp_jax.training import workdir as workdirs
from dense_aspp_jax.training.checkpoints import Checkpoints
from dense_aspp_jax.training.train_state import create_state

CONFIG = pathlib.Path(__file__).parents[2] / 'configs' / 'default.py'
TINY = {'extractor': 'densenet_tiny', 'dilation_rates': (1, 2), 'growth_rate': 4, 'bottleneck_width': 8}


def run(output, *options, model=TINY):
  fields = [f'--config.model.{name}={value}' for name, value in model.items()]
  size = '--config.data.image_size=(30, 64)'  # no multiple of the stride
  return main(
    ['receptive-field', f'--config={CONFIG}', *fields, size, '--images=1', '--output', str(output)]
    + [str(option) for option in options]
  )


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A run saved before its first step, in bfloat16, its parameters other than the initial ones of seed 0."""
  path = tmp_path_factory.mktemp('run')
  config = default.get_config()
  config.model.update(TINY)
  config.data.image_size = (32, 64)
  state = create_state(create_model(**config.model), optax.sgd(0.1), seed=7)
  with (
    workdirs.begin(path, {'directory': str(CONFIG.parent), **config.to_dict()}, CITYSCAPES_20, {}),
    Checkpoints(path, 1) as checkpoints,
  ):
    checkpoints.save_best(state, 0.5)
  return path


def test_a_network_without_a_cascade_has_the_field_of_its_extractor(tmp_path, capsys):
  assert run(tmp_path / 'out', model=TINY | {'dilation_rates': ()}) == 0
  result = json.loads((tmp_path / 'out' / 'receptive_field.json').read_text())
  assert (result['extractor']['size'], result['paths']) == (135, [])
  assert [path.name for path in (tmp_path / 'out').glob('*.png')] == ['receptive_field.png']
  assert 'receptive_field.json and a picture in' in capsys.readouterr().out


def test_random_initial_parameters(tmp_path, capsys):
  assert run(tmp_path / 'out') == 0
  result = json.loads((tmp_path / 'out' / 'receptive_field.json').read_text())
  assert result['extractor'] == {
    'rows': {'low': -65, 'high': 69, 'stride': 8},
    'columns': {'low': -65, 'high': 69, 'stride': 8},
    'is_global': False,
    'size': 135,
  }
  paths = {tuple(path['layers']): path for path in result['paths']}
  assert {key: (p['field'], p['image_field']) for key, p in paths.items()} == {
    (1,): (3, 135 + 2 * 8),
    (2,): (5, 135 + 4 * 8),
    (1, 2): (7, 135 + 6 * 8),
  }
  assert paths[2,]['coverage'] == pytest.approx((3 / 5) ** 2)
  measured = result['measured']
  assert (measured['images'], measured['image_size'], measured['cell']) == (1, [32, 64], [2, 4])
  sides = [measured['sides'][share] for share in ('50%', '90%', '99%')]
  assert sides == sorted(sides)
  assert (result['workdir'], result['checkpoint'], result['step'], result['seed']) == (None, None, None, 0)
  assert (result['weights'], result['bn']) == (None, None)
  assert result['config']['model']['dilation_rates'] == [1, 2]
  assert result['provenance']['libraries']['jax']
  assert 'R1 + R2 - 1' in result['protocol']
  for name, size in (('scales.png', (1050, 600)), ('receptive_field.png', (1350, 540))):
    with Image.open(tmp_path / 'out' / name) as picture:
      assert picture.size == size
  assert len(list((tmp_path / 'out').iterdir())) == 3
  *table, held, last = capsys.readouterr().out.splitlines()
  assert table[-1].split() == ['1-2', '7', '183', '100.0']
  assert held == (
    'measured (random initial parameters, 1 images): 50% of the gradient within {:g}, 90% of the gradient '
    'within {:g}, 99% of the gradient within {:g} image pixels'.format(*sides)
  )
  assert last == f'receptive_field.json and two pictures in {tmp_path / "out"}'


def measured_with(params_seed, image_seed, train_state=False):
  """What is measured, in float32, of 32x64 images with initial parameters; the model's, or those of a run."""
  model = create_model(**TINY, num_classes=20)
  if train_state:
    state = create_state(model, optax.sgd(0.1), seed=params_seed)
    variables = {'params': state.params, 'batch_stats': state.batch_stats}
  else:
    variables = jax.jit(model.init)(jax.random.key(params_seed), jnp.zeros((1, 64, 64, 3)))
  extractor = propagate_field(model.extractor, (32, 64, 3))
  return measure_field(model, variables, extractor, (32, 64), num_images=1, seed=image_seed), extractor


def sides_of(measured):
  return {f'{share:.0%}': measured.side(share) for share in SHARES}


def test_the_parameters_of_a_run(workdir, tmp_path, capsys):
  assert run(tmp_path / 'out', '--workdir', workdir, '--checkpoint', 'best') == 0
  result = json.loads((tmp_path / 'out' / 'receptive_field.json').read_text())
  assert (result['workdir'], result['checkpoint'], result['step']) == (str(workdir), 'best', 0)
  assert (result['weights'], result['bn']) == ('raw', 'running')
  assert 'measured (checkpoint of step 0, 1 images)' in capsys.readouterr().out
  measured, extractor = measured_with(params_seed=7, image_seed=0, train_state=True)
  assert result['measured']['sides'] == sides_of(measured)
  path = cascade_paths((1, 2), extractor)[-1]  # through all layers
  figure = effective_figure(measured, extractor, path, 'densenet_tiny, checkpoint of step 0')
  save_figure(tmp_path / 'expected.png', figure)
  assert (tmp_path / 'out' / 'receptive_field.png').read_bytes() == (tmp_path / 'expected.png').read_bytes()


def test_a_run_brings_its_configuration(workdir):
  assert main(['receptive-field', f'--workdir={workdir}', '--images=1']) == 0
  result = json.loads((workdir / 'analysis' / 'receptive_field' / 'receptive_field.json').read_text())
  stored = json.loads((workdir / 'config.json').read_text())
  assert stored.pop('directory') == str(CONFIG.parent)
  assert result['config'] == stored
  assert result['measured']['image_size'] == [32, 64]


def test_the_seed_is_of_the_parameters_and_of_the_images(tmp_path):
  assert run(tmp_path / 'out', '--config.seed=3') == 0
  result = json.loads((tmp_path / 'out' / 'receptive_field.json').read_text())
  assert result['measured']['sides'] == sides_of(measured_with(params_seed=3, image_seed=3)[0])


def test_a_run_of_another_network_is_refused(workdir, tmp_path, capsys):
  assert run(tmp_path / 'out', '--workdir', workdir, model={**TINY, 'growth_rate': 5}) == 2
  assert f'{workdir}: another network (model.growth_rate: 4 there, 5 given)' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (['--images=0'], '--images 0: expected at least 1'),
    (['--checkpoint=best'], '--checkpoint best: expected --model with it'),
    (['--weights=raw'], '--weights raw: expected --model with it'),
    (['--bn=recalibrated'], '--bn recalibrated: expected --model with it'),
    (['--output', CONFIG], 'default.py is not a directory that can be written'),
    (['--config.training.batch_size=0'], 'config.training.batch_size = 0: expected'),
  ],
)
def test_bad_input(tmp_path, capsys, options, message):
  assert run(tmp_path / 'out', *options) == 2
  assert message in capsys.readouterr().err


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--output=out'], 'expected --model, a trained network, or --config and --output'),
    ([f'--config={CONFIG}'], 'expected --model, a trained network, or --config and --output'),
    (['--workdir=run', '--config.seed=1'], '--config.seed=1: expected --config=FILE with it, or neither'),
  ],
)
def test_one_source_of_the_configuration_is_needed(capsys, arguments, message):
  assert main(['receptive-field', *arguments]) == 2
  assert message in capsys.readouterr().err
