import types

import jax
import pytest

from dense_aspp_jax.benchmark import timing
from dense_aspp_jax.benchmark.timing import Timing, measure, seconds


class Device:
  """Stands for a device on a clock: a step takes time once it is waited for."""

  def __init__(self, monkeypatch, step_seconds):
    self.now, self.dispatched, self.waited = 0.0, 0, 0
    self.most_in_flight = 0
    self.step_seconds = iter(step_seconds)
    monkeypatch.setattr(
      timing, 'time', types.SimpleNamespace(perf_counter=self.clock, process_time=lambda: 3 * self.now)
    )
    monkeypatch.setattr(jax, 'block_until_ready', self.wait)

  def clock(self):
    return self.now

  def run(self):
    self.dispatched += 1
    self.most_in_flight = max(self.most_in_flight, self.dispatched - self.waited)
    return self.dispatched

  def wait(self, steps):
    for step in steps if isinstance(steps, list) else [steps]:
      assert step == self.waited + 1
      self.waited = step
      self.now += next(self.step_seconds)


def test_a_repeat_is_long_enough_and_the_warm_up_does_not_count(monkeypatch):
  warm_up = [100, 10, 0.3]
  device = Device(monkeypatch, [*warm_up, *[0.1] * 4, *[0.2] * 4, *[0.4] * 4])
  result = measure(device.run, repeats=3, in_flight=2)
  assert result.steps == 4  # a second at 0.3 s a step
  assert result.milliseconds == pytest.approx((100, 200, 400))
  assert result.cpu_milliseconds == pytest.approx((300, 600, 1200))
  assert device.waited == device.dispatched == 3 + 3 * 4


@pytest.mark.parametrize('in_flight', [0, 2])
def test_so_many_steps_are_in_flight_and_all_are_waited_for(in_flight, monkeypatch):
  device = Device(monkeypatch, [1.0] * 5)
  assert seconds(device.run, 5, in_flight) == (5, 15)
  assert device.most_in_flight == in_flight + 1  # the one just dispatched
  assert device.waited == 5


def test_median_and_spread_are_those_of_the_repeats():
  figures = Timing(7, (10.0, 20.0, 30.0, 40.0, 100.0), (5.0, 6.0, 4.0, 9.0, 1.0)).to_json(images=8)
  assert figures == {
    'repeats': 5,
    'steps_per_repeat': 7,
    'ms_per_step': 30.0,
    'ms_quartiles': [20.0, 40.0],
    'ms_range': [10.0, 100.0],
    'cpu_ms_per_step': 5.0,
    'images_per_second': pytest.approx(8 / 0.03),
    'images_per_second_quartiles': pytest.approx([8 / 0.04, 8 / 0.02]),
  }
