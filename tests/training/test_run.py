import pytest
from test_workdir import start

from configs import default
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.training import run


def test_a_run_is_loaded_at_its_best_unless_told_otherwise(tmp_path, monkeypatch):
  def restore(workdir, checkpoint, abstract_variables, model_fields, weights):
    raise InputError(f'asked for {checkpoint} {weights}')

  monkeypatch.setattr(run, 'restore_variables', restore)
  config = default.get_config().to_dict()
  config['model']['extractor'] = 'densenet_tiny'
  start(tmp_path, config)
  with pytest.raises(InputError, match='asked for best raw'):
    run.load_run(tmp_path)
  with pytest.raises(InputError, match='asked for 12 raw'):
    run.load_run(tmp_path, '12')


@pytest.mark.parametrize(
  ('decay', 'weights', 'message'),
  [
    (0.5, None, 'asked for ema'),
    (0.5, 'ema', 'asked for ema'),
    (0.5, 'raw', 'asked for raw'),
    (0.0, None, 'asked for raw'),
    (0.0, 'ema', r'no moving averages .*ema_decay = 0.* use those of raw'),
    (0.5, 'swa', "weights 'swa': expected raw or ema"),
  ],
)
def test_a_run_with_moving_averages_is_loaded_with_them_unless_told_otherwise(
  tmp_path, monkeypatch, decay, weights, message
):
  def restore(workdir, checkpoint, abstract_variables, model_fields, weights):
    raise InputError(f'asked for {weights}')

  monkeypatch.setattr(run, 'restore_variables', restore)
  config = default.get_config().to_dict()
  config['model']['extractor'] = 'densenet_tiny'
  config['training']['ema_decay'] = decay
  start(tmp_path, config)
  with pytest.raises(InputError, match=message):
    run.load_run(tmp_path, weights=weights)
