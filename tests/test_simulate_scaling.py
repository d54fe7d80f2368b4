"""What is communicated in a training step, and what that costs by the tools' model."""

import collections
import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import pytest

from configs import default
from dense_aspp_jax.errors import RunError
from dense_aspp_jax.models.counts import abstract_variables, count_parameters
from dense_aspp_jax.models.segmentation import create_model
from tools import simulate_scaling, step_communication
from tools.collectives import read_collectives
from tools.interconnects import INTERCONNECTS

ROOT = pathlib.Path(__file__).parents[1]
US = 1e-6
H100 = 'NVIDIA H100 80GB HBM3'
TINY = dict(
  extractor='densenet_tiny', dilation_rates=(1,), growth_rate=4, bottleneck_width=8, compute_dtype='float32'
)

# Two devices of four each reduce a pair; two gathers that do not depend on each other; a loop of 5 turns
# around an all-reduce that is started and ended; one in a called computation, and another behind it that is
# asynchronous as a whole computation.
PROGRAM = """\
HloModule jit_step, entry_computation_layout={(f32[8]{0})->f32[8]{0}}, num_partitions=4

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (carry: (s32[], f32[6])) -> (s32[], f32[6]) {
  %carry = (s32[], f32[6]{0}) parameter(0)
  %count = s32[] get-tuple-element(%carry), index=0
  %value = f32[6]{0} get-tuple-element(%carry), index=1
  %start = f32[6]{0} all-reduce-start(%value), replica_groups={}, to_apply=%add
  %done = f32[6]{0} all-reduce-done(%start)
  ROOT %next = (s32[], f32[6]{0}) tuple(%count, %done)
}

%condition (carry.1: (s32[], f32[6])) -> pred[] {
  %carry.1 = (s32[], f32[6]{0}) parameter(0)
  ROOT %go = pred[] constant(true)
}

%called (x: bf16[3,5]) -> bf16[3,5] {
  %x = bf16[3,5]{1,0} parameter(0)
  ROOT %inner = bf16[3,5]{1,0} all-reduce(%x), replica_groups=[2,2]<=[4], to_apply=%add
}

%other (y: bf16[3,5]) -> bf16[3,5] {
  %y = bf16[3,5]{1,0} parameter(0)
  ROOT %moved = bf16[3,5]{1,0} collective-permute(%y), source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
}

ENTRY %main (p: f32[8], q: (s32[], f32[6]), r: bf16[3,5]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %q = (s32[], f32[6]{0}) parameter(1)
  %r = bf16[3,5]{1,0} parameter(2)
  %pair = (f32[8]{0}, s32[]) all-reduce(%p, /*index=1*/%p), replica_groups={{0,1},{2,3}}, to_apply=%add, \
metadata={op_name="jit(step)/(one(x)/sum:two/sum)" stack_frame_id=1}
  %first = f32[8]{0} get-tuple-element(%pair), index=0
  %mean = f32[4,8]{1,0} all-gather(%first), replica_groups=mesh['a'=2,'b'=2] {'a','b'}, dimensions={0}
  %gather = ((f32[8]{0}), (f32[4,8]{1,0})) all-gather-start(%first), \
replica_groups={{0,1,2,3}}, dimensions={0}
  %variance = f32[4,8]{1,0} all-gather-done(%gather)
  %alone = f32[8]{0} all-reduce(%first), replica_groups={{0},{1},{2},{3}}, to_apply=%add
  %scatter = f32[2]{0} reduce-scatter(%mean, %variance), replica_groups={{0,1,2,3}}, dimensions={0}, \
to_apply=%add
  %loop = (s32[], f32[6]{0}) while(%q), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %call = bf16[3,5]{1,0} call(%r), to_apply=%called
  %wrapped = ((bf16[3,5]{1,0}), bf16[3,5]{1,0}, u32[]) async-start(%call), calls=%other
  %unwrapped = bf16[3,5]{1,0} async-done(%wrapped), calls=%other
  ROOT %result = f32[8]{0} fusion(%alone, %scatter, %loop, %unwrapped), kind=kLoop, calls=%add
}
"""


def test_collectives_are_counted_as_often_as_they_run():
  found = read_collectives(PROGRAM)
  # Kind, bytes that a device puts in, devices together, executions.
  assert [(c.kind, c.bytes, c.group_size, c.executions) for c in found] == [
    ('all-reduce', 8 * 4 + 4, 2, 1),
    ('all-gather', 8 * 4, 4, 1),
    ('all-gather', 8 * 4, 4, 1),
    ('reduce-scatter', 2 * 4 * 4, 4, 1),
    ('all-reduce', 6 * 4, 4, 5),
    ('all-reduce', 3 * 5 * 2, 2, 1),
    ('collective-permute', 3 * 5 * 2, 4, 1),
  ]
  pair, mean, variance, scatter, _, call, moved = found
  assert [part.name for part in pair.parts] == ['jit(step)/one(x)/sum', 'jit(step)/two/sum']
  assert pair.level < mean.level == variance.level < scatter.level
  assert call.level < moved.level
  assert [c.feeds for c in found] == [True, True, True, False, True, True, False]


@pytest.mark.parametrize(
  ('old', 'new', 'message'),
  [
    ('"known_trip_count":{"n":"5"}', '', 'loop: a loop of unknown length'),
    ('call(%r), to_apply', 'conditional(%r), branch_computations={%add, %called}, to', 'call: a branch'),
    ('replica_groups=[2,2]<=[4]', 'replica_groups=?', 'inner: replica groups not understood'),
  ],
)
def test_what_cannot_be_counted_is_refused(old, new, message):
  assert PROGRAM.count(old) == 1
  with pytest.raises(ValueError, match=message):
    read_collectives(PROGRAM.replace(old, new))


def make_config(**overrides):
  config = default.get_config()
  config.model.update(TINY)
  config.update_from_flattened_dict(overrides)
  return config


@pytest.fixture(scope='module')
def communication():
  """Of the tiny network: the same for 2 and 4 devices, and for images of 64x128 and 96x64."""
  return step_communication.checked_communication(make_config())


def by_purpose(communication):
  totals = collections.Counter()
  for row in communication.rows:
    totals[row['purpose'], row['kind']] += row['bytes']
  return totals


def test_each_parameter_is_summed_once_and_statistics_are_exchanged(communication):
  parameters = count_parameters(create_model(**make_config().model), (64, 64))['total']
  assert communication.parameters == parameters
  assert communication.gradient_bytes == 4 * parameters
  # Mean and variance of a bottleneck (16 channels, 8 in DenseASPP) and of an output (4 channels) of four
  # dense layers and one atrous layer. No norm reads the last output: its variance is not exchanged.
  gathered = 4 * (4 * 2 * (16 + 4) + 2 * 8 + 4)
  assert by_purpose(communication)['batch statistics', 'all-gather'] == gathered
  assert 0 < by_purpose(communication)['loss and accuracy', 'all-reduce'] <= 64
  assert sum(row['bytes'] for row in communication.rows) < 4 * parameters + 4096
  adam = 2
  assert 4 * (1 + adam) * parameters < communication.state_bytes < 4 * (1.1 + adam) * parameters


def test_accumulated_parts_communicate_each(communication):
  config = make_config(**{'training.gradient_accumulation': 3})
  accumulated = step_communication.step_communication(config, 2, (64, 128))
  assert accumulated.gradient_bytes == 3 * communication.gradient_bytes
  gathers = 'batch statistics', 'all-gather'
  assert by_purpose(accumulated)[gathers] == 3 * by_purpose(communication)[gathers]


def test_a_gradient_that_is_not_summed_is_found(communication):
  parameters = abstract_variables(create_model(**make_config().model))['params']
  sizes = [leaf.size for leaf in jax.tree.leaves(parameters)]
  found = list(step_communication.purposes(communication.collectives, sizes))
  assert sum(purpose == step_communication.GRADIENTS for purpose, *_ in found) == len(sizes)
  largest = max(communication.collectives, key=lambda collective: collective.bytes)
  others = [collective for collective in communication.collectives if collective != largest]
  with pytest.raises(RunError, match=rf'the gradients of parameters of .*{max(sizes)}\] numbers'):
    list(step_communication.purposes(others, sizes))


def test_programs_that_differ_in_what_they_communicate_are_refused(monkeypatch, communication):
  def depends_on_devices(config, devices, image_size):
    return communication if devices == 2 else dataclasses.replace(communication, rows=[])

  monkeypatch.setattr(step_communication, 'step_communication', depends_on_devices)
  with pytest.raises(RunError, match=r'\(4, \(96, 64\)\) communicate \[\]'):
    step_communication.checked_communication(make_config())


def test_the_cost_on_gpus_is_that_of_nccls_model():
  links = INTERCONNECTS['H100, NVLink + InfiniBand NDR']
  # Few bytes: latency alone. Ring of 8; tree over 128 hosts; rings of 16 and 1024.
  assert links.all_reduce(0, 8) == pytest.approx((6.6 + 14 * 0.6) * US)
  assert links.all_reduce(0, 1024) == pytest.approx((6.8 + 2 * (7 * 0.6 * 1.8 + 7 * 5.0)) * US)
  assert links.all_gather(0, 16) == pytest.approx((6.6 + 14 * 0.6 * 1.8 + 2.7) * US)
  assert links.all_gather(0, 1024) == pytest.approx((6.6 + 896 * 0.6 * 1.8 + 127 * 2.7) * US)
  # Many bytes: bandwidth alone, 0.8 of 450 GB/s a GPU in a host, of 400 between hosts.
  assert links.all_reduce(1e12, 8) == pytest.approx(2 * 7 / 8 * 1e12 / 360e9, rel=1e-3)
  assert links.all_reduce(1e12, 64) == pytest.approx(2 * 63 / 64 * 1e12 / 320e9, rel=1e-3)
  assert links.all_gather(1e11, 64) == pytest.approx(63 * 1e11 / 320e9, rel=1e-3)
  ethernet = INTERCONNECTS['H100, NVLink + 100 Gb/s Ethernet']
  assert ethernet.all_reduce(1e12, 64) == pytest.approx(2 * 63 / 64 * 1e12 / 10e9, rel=1e-3)
  assert ethernet.all_reduce(1e6, 8) == links.all_reduce(1e6, 8)


def test_the_cost_on_tpus_is_that_of_rings_along_the_axes():
  links = INTERCONNECTS['TPU v5e']
  assert links.all_gather(0, 256) == pytest.approx((1 + 16) * US)  # half of 16, on each of 2 axes
  assert links.all_reduce(1e12, 256) == pytest.approx(2 * 255 / 256 * 1e12 / 160e9, rel=1e-3)
  assert links.all_reduce(1e12, 64) == pytest.approx(2 * 63 / 64 * 1e12 / 80e9, rel=1e-3)  # open axes
  assert INTERCONNECTS['TPU v5p'].all_gather(0, 512) == pytest.approx((1 + 12) * US)


LAUNCHES = [
  {'kind': 'all-gather', 'bytes': 64, 'executions': 1, 'level': [1], 'feeds': True},
  {'kind': 'all-gather', 'bytes': 64, 'executions': 1, 'level': [1], 'feeds': True},
  {'kind': 'all-reduce', 'bytes': 64, 'executions': 5, 'level': [2], 'feeds': True},
  {'kind': 'all-reduce', 'bytes': 10**9, 'executions': 1, 'level': [3], 'feeds': False},
]
STEP = {'ms': 6.0, 'images': 4, 'device': H100, 'from': 'a test'}


def described(launches=LAUNCHES):
  config = {'model': {'compute_dtype': 'bfloat16'}, 'training': {'batch_size': 4}}
  return {'launches': launches, 'record_bytes': 1000, 'config': config}


def test_a_step_is_longer_for_what_it_waits_for():
  result = simulate_scaling.simulate(described(), STEP)
  name = 'H100, NVLink + InfiniBand NDR'
  links, rows = INTERCONNECTS[name], result['interconnects'][name]['weak']
  assert [row['devices'] for row in rows] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
  assert rows[0]['efficiency'] == [1, 1]
  assert rows[0]['images_per_second'] == [pytest.approx(4 / 6e-3)] * 2
  row = rows[4]  # 16 devices, 2 hosts
  gradients = links.all_reduce(10**9, 16)
  slow = 2 * links.all_gather(64, 16) + 5 * links.all_reduce(64, 16) + gradients
  fast = links.all_gather(128, 16) + 5 * links.all_reduce(64, 16) + gradients - 4e-3  # 2/3 of 6 ms
  assert gradients > 4e-3
  assert row['communication_ms'] == pytest.approx([1e3 * slow, 1e3 * fast])
  assert row['efficiency'] == pytest.approx([6e-3 / (6e-3 + slow), 6e-3 / (6e-3 + fast)])
  assert row['images_per_second'] == pytest.approx([64 / (6e-3 + slow), 64 / (6e-3 + fast)])
  assert (row['hosts'], row['batch_size']) == (2, 64)
  assert row['images_per_second_of_host'] == pytest.approx(32 / (6e-3 + fast))
  assert row['input_bytes_per_second_of_host'] == pytest.approx(32e3 / (6e-3 + fast))
  assert row['gathers_ms'] == pytest.approx(1e3 * links.all_gather(128, 16))


def test_a_fixed_batch_reaches_as_many_devices_as_it_has_images():
  strong = simulate_scaling.simulate(described(), STEP)['interconnects']['TPU v5p']['strong']
  assert [(row['devices'], row['images_per_device']) for row in strong] == [(1, 4), (2, 2), (4, 1)]
  assert strong[0]['speedup'] == [1, 1]
  without = simulate_scaling.simulate(described([]), STEP)['interconnects']['TPU v5p']['strong']
  assert [row['speedup'][0] for row in without] == pytest.approx([1, 2, 4])


def test_steps_of_other_devices_are_scaled_by_their_peaks():
  steps = {
    name: of['step_ms'] for name, of in simulate_scaling.simulate(described(), STEP)['interconnects'].items()
  }
  assert steps['TPU v5e'] == pytest.approx(6 * 989.4 / 197)
  assert steps['TPU v5p'] == pytest.approx(6 * 989.4 / 459)
  assert steps['H100, NVLink + InfiniBand NDR'] == 6
  assert (
    max(
      of['devices'] for of in simulate_scaling.simulate(described(), STEP)['interconnects']['TPU v5e']['weak']
    )
    == 256
  )


def run_simulation(tmp_path, *arguments, content=None):
  path = tmp_path / 'communication.json'
  path.write_text(json.dumps(described()) if content is None else content)
  output = tmp_path / 'scaling.json'
  code = simulate_scaling.main([f'--communication={path}', f'--output={output}', *arguments])
  return code, json.loads(output.read_text()) if output.exists() else None


def test_the_step_may_come_from_a_benchmark(tmp_path, capsys):
  def result(mode, devices, ms):
    return {'mode': mode, 'num_devices': devices, 'ms_per_step': ms, 'batch_size': 2, 'device': H100}

  results = [result('inference', 1, 1.0), result('train', 1, 5.0)]
  records = [{'results': results, 'provenance': {'git_commit': 'abc'}}]
  records.append({'results': [result('train', 8, 7.0)], 'provenance': {'git_commit': 'def'}})
  benchmark = tmp_path / 'results.json'
  benchmark.write_text(json.dumps(records))
  code, written = run_simulation(tmp_path, f'--benchmark={benchmark}')
  assert code == 0
  assert written['step'] == {
    'ms': 5.0,
    'images': 2,
    'device': H100,
    'from': 'measured, results.json, git abc',
  }
  assert written['provenance']['libraries']['jax'] == jax.__version__
  assert simulate_scaling.markdown(written) in capsys.readouterr().out


@pytest.mark.parametrize(
  ('arguments', 'content', 'message'),
  [
    (['--step-ms=0'], None, 'expected milliseconds, above 0'),
    (['--step-ms=5', '--device=abacus'], None, "'abacus': its peak in bfloat16 is not known"),
    (['--step-ms=5'], '{', 'expected what step_communication.py wrote'),
    (['--step-ms=5'], '[]', 'expected what step_communication.py wrote'),
    (['--step-ms=5'], '{"launches": [{"kind": "all-to-all"}]}', 'all-to-all: only all-reduce and'),
    (['--benchmark=/missing.json'], None, 'no train result on one device'),
  ],
)
def test_bad_input_is_one_line_and_nothing_is_written(arguments, content, message, tmp_path, capsys):
  code, written = run_simulation(tmp_path, *arguments, content=content)
  error = capsys.readouterr().err
  assert (code, written) == (2, None)
  assert message in error
  assert error.count('\n') == 1


def test_the_documented_tables_are_those_of_the_tools():
  documented = json.loads((ROOT / 'docs/scaling.json').read_text())
  text = (ROOT / 'docs/scaling.md').read_text()
  assert simulate_scaling.markdown(documented) in text
  for row in documented['communication']['rows']:
    assert f'| {row["purpose"]} | {row["kind"]} | {row["arrays"]:,} | {row["bytes"]:,} |' in text


@pytest.mark.slow
def test_the_documented_figures_are_those_of_the_default_network(tmp_path):
  output = tmp_path / 'communication.json'
  command = [
    sys.executable,
    '-m',
    'tools.step_communication',
    '--config=configs/default.py',
    f'--output={output}',
  ]
  done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
  assert done.returncode == 0, done.stderr
  communication = json.loads(output.read_text())
  assert communication['parameters'] == 6_953_856 + 2_252_820  # DenseNet-121, DenseASPP and head
  assert communication['gradient_bytes'] == 4 * communication['parameters']
  documented = json.loads((ROOT / 'docs/scaling.json').read_text())
  for name in ('rows', 'state_bytes', 'record_bytes', 'evaluation_bytes'):
    assert communication[name] == documented['communication'][name]
  again = simulate_scaling.simulate(communication, documented['step'])
  assert again['interconnects'] == documented['interconnects']


@pytest.mark.slow
def test_a_bad_configuration_is_one_line(tmp_path):
  command = [
    sys.executable,
    '-m',
    'tools.step_communication',
    '--config=missing.py',
    f'--output={tmp_path}/x.json',
  ]
  done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
  assert done.returncode == 2
  assert done.stderr.startswith('step_communication: --config=missing.py: no such file')
