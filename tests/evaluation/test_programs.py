import threading
import time
import weakref

import jax.numpy as jnp

from dense_aspp_jax.evaluation.programs import Programs


def test_a_program_is_compiled_once_and_kept_while_it_is_used():
  traced, programs = [], Programs(2)

  def double(x):
    traced.append(x.shape)
    return 2 * x

  for size in (1, 2, 1, 3, 1, 2, 1):  # 3 comes when 1 and 2 are there, of which 1 was used last
    assert programs.run(size, double, jnp.ones(size)).sum() == 2 * size
  assert traced == [(1,), (2,), (3,), (2,)]


def test_what_is_not_kept_is_freed():
  programs, freed = Programs(1), []

  def function(number):
    def add(x):
      return x + number

    weakref.finalize(add, freed.append, number)
    return add

  for number in range(3):
    assert programs.run(number, function(number), jnp.zeros(())) == number
  assert freed == [0, 1]


def test_threads_wait_for_one_compilation():
  traced, found, programs = [], [], Programs(2)
  start = threading.Barrier(8)

  def slow(x):
    traced.append(x.shape)
    time.sleep(0.2)
    return x + 1

  def run():
    start.wait()
    found.append(int(programs.run('key', slow, jnp.zeros((), int))))

  threads = [threading.Thread(target=run) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert found == [1] * 8
  assert len(traced) == 1
