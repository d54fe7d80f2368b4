import functools

import jax
import numpy as np
import pytest
from tiny_network import SHALLOW, tiny_config

from dense_aspp_jax.benchmark import modes, timing
from dense_aspp_jax.benchmark.output import lines
from dense_aspp_jax.benchmark.peers import compare
from dense_aspp_jax.benchmark.peers.compare import Comparison, comparable, first_image_logits
from dense_aspp_jax.errors import RunError
from dense_aspp_jax.models.initial_variables import initial_variables
from dense_aspp_jax.models.segmentation import create_model

make_config = functools.partial(tiny_config, model=SHALLOW)


class InProcess:
  """Stands for a peer's process; a step takes a second."""

  first, logits_error, failure = None, 0.0, None

  def __init__(self, peer, task):
    self.task, self.calls = task, []

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def send(self, method, *arguments):
    self.calls.append((method, *arguments))

  def receive(self):
    return self.call(*self.calls.pop(0))

  def call(self, method, *arguments):
    if self.failure:
      raise RunError(self.failure)
    match method:
      case 'logits':
        return self.logits + self.logits_error * np.abs(self.logits).max()
      case 'prepare':
        return dict(self.first)
      case 'run':
        return 1.0 * arguments[0], 2.0 * arguments[0]
      case 'describe':
        return {'torch': '9.9'}


@pytest.fixture(scope='module')
def ours():
  """Our logits and classes of the compared network."""
  config = comparable(make_config())
  variables = compare.with_drawn_norms(
    initial_variables(create_model(**config.model), config.seed), config.seed
  )
  images = compare.random_batch(config, 8)['image']
  logits = first_image_logits(config, variables, images)
  return logits, logits.argmax(-1).astype(np.uint8)


@pytest.fixture
def peer(monkeypatch, ours):
  fake = type('Fake', (InProcess,), {'logits': ours[0], 'first': {'seconds': 5.0, 'classes': ours[1]}})
  monkeypatch.setattr(compare, 'PeerProcess', fake)
  monkeypatch.setattr(compare, 'first_image_logits', lambda *_: ours[0])
  monkeypatch.setattr(timing, 'REST_SECONDS', 0.0)
  monkeypatch.setattr(timing, 'TURN_SECONDS', 0.01)
  return fake


def comparison(mode='inference', **options):
  options = {'on_cpu': True, 'all_required': True} | options
  return Comparison(mode, comparable(make_config()), ['eager', 'compile'], **options)


def test_a_step_is_measured_beside_the_peers(peer):
  with comparison() as peers:
    result = modes.benchmark_step('inference', make_config(), repeats=2, comparison=peers)
  assert list(result['peers']) == ['eager', 'compile']
  eager = result['peers']['eager']
  assert (eager['ms_per_step'], eager['cpu_ms_per_step'], eager['torch']) == (1000, 2000, '9.9')
  low, high = eager['our_speed_over_theirs_range']
  assert low <= eager['our_speed_over_theirs'] <= high
  assert low <= 1000 / result['ms_per_step'] <= high
  assert eager['flops_per_second'] == pytest.approx(result['flops_per_step'])
  assert eager['share_of_peak_flops'] == pytest.approx(eager['flops_per_second'] / result['peak_flops'])
  text = '\n'.join(lines(result))
  assert 'onnxruntime' not in text
  assert '1000.00' in text
  assert '2000.00' in text


def test_other_logits_or_classes_are_an_error(peer, ours):
  with comparison() as peers:
    peers.check(ours[1][None])
  with comparison() as peers, pytest.raises(RunError, match='eager: 100 % of its classes differ'):
    peers.check(ours[1][None] + 1)
  peer.logits_error = 0.01
  with comparison() as peers, pytest.raises(RunError, match=r'eager: its logits differ.*same networks'):
    peers.check(ours[1][None])


def test_another_loss_is_an_error(peer):
  peer.first = {'seconds': 5.0, 'loss': 3.0}
  with comparison('train') as peers:
    peers.check({'loss': jax.numpy.float32(3.0)})
  with comparison('train') as peers, pytest.raises(RunError, match=r'loss of its first step is 3, ours 3\.1'):
    peers.check({'loss': jax.numpy.float32(3.1)})


def test_a_peer_that_fails_is_left_out_unless_it_was_named(peer, ours, capsys):
  peer.failure = 'InvalidCxxCompiler: no compiler'
  with comparison(all_required=False) as peers:
    peers.check(ours[1][None])
    assert not peers.first
  assert 'eager is not compared: InvalidCxxCompiler: no compiler' in capsys.readouterr().err
  with comparison() as peers, pytest.raises(RunError, match='eager: InvalidCxxCompiler'):
    peers.check(ours[1][None])


def test_what_peers_do_not_have_is_left_out_and_said(capsys):
  assert comparable(make_config()).to_dict() == make_config().to_dict()
  assert capsys.readouterr().err == ''
  config = make_config(**{'model.dropout_rate': 0.1, 'loss.region': 'dice', 'augmentation.hue': 0.1})
  assert comparable(config).to_dict() == make_config().to_dict()
  assert config.loss.region == 'dice'
  said = capsys.readouterr().err
  assert all(name in said for name in ('model.dropout_rate', 'loss.region', 'augmentation.hue'))
