import functools

import jax
import jax.numpy as jnp
import pytest
from tiny_network import SHALLOW, tiny_config

from dense_aspp_jax.benchmark import device, modes, timing
from dense_aspp_jax.benchmark.device import peak_flops
from dense_aspp_jax.benchmark.output import lines
from dense_aspp_jax.benchmark.trace import trace

make_config = functools.partial(tiny_config, model=SHALLOW)


@pytest.fixture(autouse=True)
def short_repeats(monkeypatch):
  monkeypatch.setattr(timing, 'REPEAT_SECONDS', 0.01)


@pytest.fixture(scope='module')
def memory():
  config = make_config()
  result = modes.benchmark_memory(config)
  assert config.to_dict() == make_config().to_dict()
  return result


def test_the_figures_of_a_step_agree_with_each_other(monkeypatch, tmp_path):
  monkeypatch.setitem(device.PEAK_FLOPS, 'cpu', {'float32': 1e12})
  result = modes.benchmark_step('inference', make_config(), repeats=3, trace_directory=tmp_path)
  seconds = result['ms_per_step'] / 1e3
  assert (result['repeats'], result['batch_size'], result['num_devices']) == (3, 8, 8)
  assert result['images_per_second'] == pytest.approx(8 / seconds)
  assert result['flops_per_second'] == pytest.approx(result['flops_per_step'] / seconds)
  assert result['share_of_peak_flops'] == pytest.approx(result['flops_per_second'] / 8e12)
  assert result['bytes_accessed'] > 0
  assert result['peak_bytes_in_use'] is None  # not counted on a CPU
  assert result['kernel_ms'] >= sum(kernel['milliseconds'] for kernel in result['kernels']) > 0
  assert (tmp_path / 'inference').is_dir()
  text = '\n'.join(lines(result))
  assert f'{result["images_per_second"]:.1f}' in text
  assert result['kernels'][0]['name'] in text


def test_an_unknown_device_has_no_peak():
  assert peak_flops('float32', 1) is None


def test_every_form_of_the_training_step_has_its_memory(memory):
  assert list(memory['forms']) == list(modes.FORMS)
  assert all(form['temporaries'] > 0 for form in memory['forms'].values())
  arguments = {form['arguments'] for form in memory['forms'].values()}
  assert len(arguments) == 1  # the same state and batch
  assert len(list(lines(memory))) == 2 + len(modes.FORMS)


def test_a_trace_names_the_operations_of_a_step(tmp_path):
  x = jnp.ones((256, 256))
  compiled = jax.jit(lambda x: jnp.sort(x @ x)).lower(x).compile()
  jax.block_until_ready(compiled(x))
  kernels = {kernel.name: kernel for kernel in trace(lambda: compiled(x), tmp_path)}
  (sort,) = (kernel for name, kernel in kernels.items() if 'sort' in name)
  assert sort.launches == 1
  assert sort.milliseconds > 0
  assert [k.milliseconds for k in kernels.values()] == sorted(
    (k.milliseconds for k in kernels.values()), reverse=True
  )
