"""What is communicated in a training step, and what that costs by the tool's model."""

import pathlib
import subprocess
import sys

import pytest
from tiny_network import TINY

from configs import default
from dense_aspp_jax.errors import RunError
from dense_aspp_jax.models.counts import count_parameters
from dense_aspp_jax.models.segmentation import create_model
from tools import simulate_scaling
from tools.simulate_scaling import GRADIENTS, SYSTEMS, Collective, Part, read_collectives

ROOT = pathlib.Path(__file__).parents[2]
US = 1e-6

# A pair of sums in one; two gathers that do not depend on each other; a loop of 5 turns around a sum; a sum
# in a called computation.
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
  %reduced = f32[6]{0} all-reduce(%value), replica_groups={}, to_apply=%add
  ROOT %next = (s32[], f32[6]{0}) tuple(%count, %reduced)
}

%condition (carry.1: (s32[], f32[6])) -> pred[] {
  %carry.1 = (s32[], f32[6]{0}) parameter(0)
  ROOT %go = pred[] constant(true)
}

%called (x: bf16[3,5]) -> bf16[3,5] {
  %x = bf16[3,5]{1,0} parameter(0)
  ROOT %inner = bf16[3,5]{1,0} all-reduce(%x), replica_groups=[1,4]<=[4], to_apply=%add
}

ENTRY %main (p: f32[8], q: (s32[], f32[6]), r: bf16[3,5]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %q = (s32[], f32[6]{0}) parameter(1)
  %r = bf16[3,5]{1,0} parameter(2)
  %pair = (f32[8]{0}, s32[]) all-reduce(%p, /*index=1*/%p), replica_groups={{0,1,2,3}}, to_apply=%add, \
metadata={op_name="jit(step)/(one(x)/sum:two/sum)" stack_frame_id=1}
  %first = f32[8]{0} get-tuple-element(%pair), index=0
  %mean = f32[4,8]{1,0} all-gather(%first), replica_groups={{0,1,2,3}}, dimensions={0}
  %variance = f32[4,8]{1,0} all-gather(%first), replica_groups={{0,1,2,3}}, dimensions={0}
  %loop = (s32[], f32[6]{0}) while(%q), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %call = bf16[3,5]{1,0} call(%r), to_apply=%called
  ROOT %result = f32[8]{0} fusion(%mean, %variance, %loop, %call), kind=kLoop, calls=%add
}
"""


def test_collectives_are_counted_as_often_as_they_run():
  found = read_collectives(PROGRAM, 4)
  # Kind, bytes from each device, executions.
  assert [(c.kind, sum(part.bytes for part in c.parts), c.executions) for c in found] == [
    ('all-reduce', 8 * 4 + 4, 1),
    ('all-gather', 8 * 4, 1),
    ('all-gather', 8 * 4, 1),
    ('all-reduce', 6 * 4, 5),
    ('all-reduce', 3 * 5 * 2, 1),
  ]
  pair, mean, variance, *_ = found
  assert [part.name for part in pair.parts] == ['jit(step)/one(x)/sum', 'jit(step)/two/sum']
  assert pair.level < mean.level == variance.level


@pytest.mark.parametrize(
  ('old', 'new'),
  [
    ('"known_trip_count":{"n":"5"}', ''),
    ('call(%r), to_apply=%called', 'conditional(%r), branch_computations={%add, %called}'),
    ('all-gather(%first)', 'reduce-scatter(%first)'),
    ('all-reduce(%value)', 'all-reduce-start(%value)'),
  ],
)
def test_what_cannot_be_counted_is_refused(old, new):
  assert old in PROGRAM
  with pytest.raises(ValueError, match='cannot be counted'):
    read_collectives(PROGRAM.replace(old, new), 4)


def make_config(**overrides):
  config = default.get_config()
  config.model.update(TINY, dilation_rates=(1,))
  config.update_from_flattened_dict(overrides)
  return config


@pytest.fixture(scope='module')
def step():
  """Of a batch computed in two parts, which communicate each."""
  return simulate_scaling.step_collectives(make_config(**{'training.gradient_accumulation': 2}), 2, (64, 128))


def test_each_parameter_is_summed_once_and_statistics_are_exchanged(step):
  collectives, exchanged = step
  parameters = count_parameters(create_model(**make_config().model), (64, 64))['total']
  assert exchanged[GRADIENTS, 'all-reduce'][1] == 2 * 4 * parameters
  # Mean and variance of a bottleneck (16 channels, 8 in DenseASPP) and of an output (4 channels) of four
  # dense layers and one atrous layer. No norm reads the last output: its variance is not exchanged.
  assert exchanged['batch statistics', 'all-gather'][1] == 2 * 4 * (4 * 2 * (16 + 4) + 2 * 8 + 4)
  assert 0 < exchanged['loss and accuracy', 'all-reduce'][1] <= 64
  assert sum(num_bytes for _, num_bytes in exchanged.values()) < 2 * (4 * parameters + 4096)
  # A gradient that is not summed is found.
  largest = max(collectives, key=lambda c: sum(part.elements for part in c.parts))
  sizes = [part.elements for c in collectives for part in c.parts if 'transpose(' in part.name]
  with pytest.raises(RunError):
    simulate_scaling.totals([c for c in collectives if c != largest], sizes)


def test_the_cost_is_that_of_rings_and_trees():
  links, ethernet = SYSTEMS.values()
  # Few bytes: latency alone. Ring of 8; tree over 128 hosts; rings of 16 and 1024.
  assert links.seconds('all-reduce', 0, 8) == pytest.approx((6.6 + 14 * 0.6) * US)
  assert links.seconds('all-reduce', 0, 1024) == pytest.approx((6.6 + 2 * (7 * 0.6 * 1.8 + 7 * 5.0)) * US)
  assert links.seconds('all-gather', 0, 16) == pytest.approx((6.6 + 14 * 0.6 * 1.8 + 2.7) * US)
  # Many bytes: bandwidth alone, 0.8 of 450 GB/s a GPU in a host, of 400 or 12.5 between hosts.
  assert links.seconds('all-reduce', 1e12, 8) == pytest.approx(2 * 7 / 8 * 1e12 / 360e9, rel=1e-3)
  assert links.seconds('all-gather', 1e11, 64) == pytest.approx(63 * 1e11 / 320e9, rel=1e-3)
  assert ethernet.seconds('all-reduce', 1e12, 64) == pytest.approx(2 * 63 / 64 * 1e12 / 10e9, rel=1e-3)


def test_independent_collectives_can_be_joined():
  system = next(iter(SYSTEMS.values()))
  gather = Collective('all-gather', (Part(16, 64, ''),), 1, (1,))
  sums = Collective('all-reduce', (Part(16, 64, ''),), 5, (2,))
  gathered, joined = system.seconds('all-gather', 64, 16), system.seconds('all-gather', 128, 16)
  summed = 5 * system.seconds('all-reduce', 64, 16)
  least, most = simulate_scaling.added_seconds([gather, gather, sums], system, 16)
  assert (least, most) == pytest.approx((joined + summed, 2 * gathered + summed))


@pytest.mark.slow
def test_the_documented_tables_are_those_of_the_tool():
  command = [sys.executable, '-m', 'tools.simulate_scaling', '--config=configs/default.py', '--step-ms=37.9']
  done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
  assert done.stdout in (ROOT / 'docs' / 'scaling.md').read_text()


def test_a_bad_configuration_is_one_line(capsys):
  assert simulate_scaling.main(['--config=missing.py', '--step-ms=1']) == 2
  assert capsys.readouterr().err.count('\n') == 1
