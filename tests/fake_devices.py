"""Fewer of the eight fake devices."""

import contextlib

import jax
import pytest


@contextlib.contextmanager
def first_devices(count):
  """Inside the `with` block JAX has only the first `count` devices."""
  devices = jax.devices()[:count]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, 'devices', lambda: devices)
    patch.setattr(jax, 'local_devices', lambda: devices)
    yield
