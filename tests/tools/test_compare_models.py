import argparse
import subprocess

import pytest

from configs import slides_model1, slides_model2, slides_model3, slides_model4, slides_model5
from dense_aspp_jax.commands.config_file import add_config_argument, read_config_file
from dense_aspp_jax.training.config import parse_config
from tools import compare_models as tool

SLIDES = {
  'model1': slides_model1,
  'model2': slides_model2,
  'model3': slides_model3,
  'model4': slides_model4,
  'model5': slides_model5,
}


def config_of(name, tmp_path):
  (command, *arguments), _ = tool.commands(name, tmp_path, 1.0, [])
  assert command == 'train'
  parser = argparse.ArgumentParser()
  add_config_argument(parser)
  parser.add_argument('--workdir')
  parser.add_argument('--no-report', action='store_true')
  args, args.config_arguments = parser.parse_known_args(arguments)
  return read_config_file(args)


@pytest.mark.parametrize('name', tool.MODELS)
def test_each_is_a_network(name, tmp_path):
  config = config_of(name, tmp_path)
  checked = parse_config(config.to_dict())
  assert checked.training.num_epochs == 1
  assert checked.label_set.num_classes == config.model.num_classes


@pytest.mark.parametrize('name', SLIDES)
def test_those_of_the_slides_are_a_quarter_of_them(name, tmp_path):
  slides, ours = SLIDES[name].get_config().model, config_of(name, tmp_path).model
  assert len(ours.dilation_rates) == len(slides.dilation_rates)
  assert all(
    abs(rate - theirs / 4) <= 0.5
    for rate, theirs in zip(ours.dilation_rates, slides.dilation_rates, strict=True)
  )
  assert ours.growth_rate == slides.growth_rate / 4
  assert ours.bottleneck_width == slides.bottleneck_width / 4
  for field in ('last_layer', 'first_norm', 'final_norm', 'num_classes', 'output_stride'):
    assert ours[field] == slides[field]


def test_all_are_trained_scored_and_tabulated_and_a_failure_ends_it(tmp_path, monkeypatch):
  called = []

  def run(command, check):
    called.append(command[3])
    return subprocess.CompletedProcess(command, 1 if len(called) == fails_at else 0)

  monkeypatch.setattr(subprocess, 'run', run)
  fails_at = None
  arguments = ['--output', str(tmp_path), '--models', 'model1', 'model4']
  assert tool.main(arguments) == 0
  assert called == ['train', 'evaluate', 'train', 'evaluate', 'results']
  called.clear()
  fails_at = 2
  assert tool.main(arguments) == 1
  assert called == ['train', 'evaluate']
