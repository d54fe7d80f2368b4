"""Which form of a dense block's operations is chosen for which GPU."""

import jax
import pytest

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models.fused import gpu_form as gpu_form_module
from dense_aspp_jax.models.fused import gpu_tiles, mosaic_tiles
from dense_aspp_jax.models.fused.gpu_form import FORCED, gpu_form, traced_gpu
from dense_aspp_jax.models.segmentation import Network


def described(name):
  """A context to trace in for a GPU that is not there."""
  device = jax.sharding.AbstractDevice(name, 132, 'cuda')
  mesh = jax.sharding.AbstractMesh((1,), ('data',), abstract_device=device)
  return jax.sharding.use_abstract_mesh(mesh)


@pytest.fixture
def all_forms(monkeypatch):
  """A version of jax that has everything."""
  monkeypatch.setattr(mosaic_tiles, 'plgpu', object())
  monkeypatch.setattr(gpu_tiles, 'triton', object())


@pytest.mark.parametrize(
  ('card', 'expected'),
  [
    ('NVIDIA H100 80GB HBM3', 'mosaic'),
    ('NVIDIA H200', 'mosaic'),
    ('NVIDIA GH200 480GB', 'mosaic'),
    ('NVIDIA A100-SXM4-80GB', 'triton'),
    ('NVIDIA L4', 'triton'),
  ],
)
def test_hopper_runs_mosaic_and_others_triton(all_forms, card, expected):
  with described(card):
    assert traced_gpu() == card
    assert gpu_form('fused') == expected


def test_without_kernels_xla_remains(monkeypatch):
  monkeypatch.setattr(mosaic_tiles, 'plgpu', None)
  monkeypatch.setattr(gpu_tiles, 'triton', None)
  with described('NVIDIA H100 80GB HBM3'):
    assert gpu_form('fused') == 'xla'


@pytest.mark.parametrize(
  ('failing', 'expected'),
  [(set(), 'mosaic'), ({'mosaic'}, 'triton'), ({'mosaic', 'triton'}, 'xla')],
)
def test_a_form_that_fails_its_check_is_left_out(all_forms, monkeypatch, failing, expected):
  class Device:
    device_kind = 'NVIDIA H200'

  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setattr(jax, 'devices', lambda: [Device])
  monkeypatch.setattr(gpu_form_module.kernel_verdicts, 'passes', lambda form: form not in failing)
  assert gpu_form('fused') == expected
  assert gpu_form('fused_mosaic') == 'mosaic'


def test_a_gpu_that_is_only_described_checks_nothing(all_forms, monkeypatch):
  monkeypatch.setattr(gpu_form_module.kernel_verdicts, 'passes', lambda form: pytest.fail('checked'))
  with described('NVIDIA H200'):
    assert gpu_form('fused') == 'mosaic'


def test_on_a_cpu_no_gpu_is_traced_for():
  assert traced_gpu() is None


@pytest.mark.parametrize(('implementation', 'form'), FORCED.items())
def test_a_form_can_be_forced_on_any_gpu(all_forms, implementation, form):
  with described('NVIDIA L4'):
    assert gpu_form(implementation) == form
  assert Network(extractor='densenet_tiny', num_classes=3, implementation=implementation).create()


@pytest.mark.parametrize(
  ('implementation', 'module', 'name'),
  [('fused_mosaic', mosaic_tiles, 'plgpu'), ('fused_triton', gpu_tiles, 'triton')],
)
def test_a_forced_form_that_jax_lacks_is_one_clear_message(implementation, module, name, monkeypatch):
  monkeypatch.setattr(module, name, None)
  message = rf"{implementation}.*jax {jax.__version__}.*set 'fused'"
  with described('NVIDIA L4'), pytest.raises(InputError, match=message):
    gpu_form(implementation)
  assert gpu_form(implementation) == gpu_form('fused')  # without a GPU: what was trained can be used anywhere
