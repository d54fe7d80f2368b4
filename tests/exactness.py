"""What exact means in the tests of the fused implementation."""

import jax
import numpy as np


def assert_exact(found, expected, tolerance=1e-8, smallest=1e-6):
  """Two trees are equal, relative to the largest value of each array.

  Some gradients of a network are 0 by the mathematics (of a bias in front of a BN) and rounding errors in
  fact: an array counts as having values of at least `smallest` of the largest of all.
  """
  floor = smallest * max(np.abs(x).max() for x in jax.tree.leaves(expected))
  found, expected = jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected)
  for (path, value), reference in zip(found, expected, strict=True):
    error = np.abs(value - reference).max() / max(np.abs(reference).max(), floor)
    assert error < tolerance, f'{jax.tree_util.keystr(path)}: {error}'
