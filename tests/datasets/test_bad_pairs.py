"""Leaving out bad pairs: order, limit, messages."""

import math
import time

import pytest

from dense_aspp_jax.datasets.bad_pairs import BadPairs, map_good
from dense_aspp_jax.errors import InputError


def checked(number: int) -> int:
  time.sleep(0.002 * (number % 3))  # they finish in another order than they begin
  if number % 5 == 2:
    raise InputError(f'{number}: bad')
  return -number


@pytest.mark.parametrize('num_workers', [1, 3, None])
def test_good_results_come_in_order_and_bad_ones_are_noted_in_order(num_workers):
  bad = BadPairs('x', math.inf)
  assert list(map_good(checked, range(20), bad, num_workers)) == [-n for n in range(20) if n % 5 != 2]
  assert bad.messages == ['2: bad', '7: bad', '12: bad', '17: bad']


def test_items_are_taken_a_few_ahead_only():
  taken = []
  results = map_good(checked, (taken.append(n) or n for n in range(1000)), BadPairs('x', 0), 2)
  next(results)
  assert len(taken) == 5
  results.close()


@pytest.mark.parametrize('limit', [0, 1, 3])
def test_one_more_than_the_limit_is_an_error_that_lists_all_so_far(limit, capsys):
  bad = BadPairs('x/train', limit)
  good = []
  with pytest.raises(InputError) as error:
    good.extend(map_good(checked, range(20), bad, 2))
  numbers = [2, 7, 12, 17][: limit + 1]
  assert good == [-n for n in range(numbers[-1]) if n % 5 != 2]
  assert all(f'{n}: bad' in str(error.value) for n in numbers)
  assert 'check-data' in str(error.value)
  if limit:
    assert f'x/train: {limit + 1} bad pairs so far, but at most {limit} may' in str(error.value)


def test_another_exception_is_not_taken_for_a_bad_pair():
  with pytest.raises(ZeroDivisionError):
    list(map_good(lambda n: 1 // n, range(3), BadPairs('x', math.inf)))


def test_what_was_left_out_is_said(capsys):
  BadPairs('x/train', 2).say(5)
  assert capsys.readouterr().err == ''
  BadPairs('x/train', 2, ['a.png: bad\nb.png: bad too', 'c.png: bad']).say(5)
  assert capsys.readouterr().err == (
    'warning: x/train: 2 of 5 pairs left out, which cannot be used:\n'
    '  a.png: bad\n  b.png: bad too\n  c.png: bad\n'
  )
