"""Results come in order, a few items ahead, and errors in their turn."""

import time

import pytest

from dense_aspp_jax.datasets.threads import available_cpus, map_in_threads


def negative(number: int) -> int:
  time.sleep(0.002 * (number % 3))  # they finish in another order than they begin
  return -number


def test_results_come_in_order():
  assert list(map_in_threads(negative, range(20))) == [-n for n in range(20)]
  assert list(map_in_threads(negative, [])) == []


def test_items_are_taken_a_few_ahead_only():
  taken = []
  results = map_in_threads(negative, (taken.append(n) or n for n in range(1000)))
  assert next(results) == 0
  assert len(taken) == 2 * available_cpus() + 1
  results.close()
  assert len(taken) == 2 * available_cpus() + 1
  taken.clear()
  assert next(map_in_threads(negative, (taken.append(n) or n for n in range(1000)), num_threads=1)) == 0
  assert len(taken) == 3


def test_an_error_comes_in_its_turn():
  results = map_in_threads(lambda number: 6 // (2 - number), range(9))
  assert [next(results), next(results)] == [3, 6]
  with pytest.raises(ZeroDivisionError):
    next(results)
