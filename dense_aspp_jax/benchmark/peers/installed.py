"""Which peers there are, and which of them are installed here."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.progress import say

_MODULES = 'dense_aspp_jax.benchmark.peers.'
_INSTALL = "pip install 'dense_aspp_jax[peers]'"


class PeerKind(NamedTuple):
  """A peer: where its class is and what it can do."""

  cls: str  # 'module:Class'
  packages: tuple[str, ...]  # that it imports
  modes: tuple[str, ...] = ('inference', 'train')
  devices: tuple[str, ...] = ('cpu', 'cuda')
  compute_dtypes: tuple[str, ...] = ('float32', 'bfloat16')


_ONNX = dict(modes=('inference',), devices=('cpu',), compute_dtypes=('float32',))
# PyTorch exports the ONNX file that the last two run.
PEERS = {
  'eager': PeerKind(_MODULES + 'pytorch_peers:Eager', ('torch',)),
  'compile': PeerKind(_MODULES + 'pytorch_peers:Compiled', ('torch',)),
  'onnxruntime': PeerKind(
    _MODULES + 'onnx_peers:OnnxRuntime', ('onnxruntime', 'onnx', 'onnxscript', 'torch'), **_ONNX
  ),
  'openvino': PeerKind(
    _MODULES + 'onnx_peers:OpenVino', ('openvino', 'onnx', 'onnxscript', 'torch'), **_ONNX
  ),
}


def named_peers(names: Sequence[str], *, modes: Sequence[str], device: str, compute_dtype: str) -> list[str]:
  """The peers that a user named, once each.

  Args:
    names: Keys of `PEERS`.
    modes: What is measured.
    device: 'cpu' or 'cuda'.
    compute_dtype: 'float32' or 'bfloat16'.

  Raises:
    InputError: One is not installed, or has nothing to measure.
  """
  for name in names:
    kind, where = PEERS[name], f'--peers {name}'
    if missing := _missing(kind):
      exported = ' (PyTorch exports its ONNX file)' if 'torch' in missing and 'onnx' in kind.packages else ''
      raise InputError(f'{where}: not installed: {", ".join(missing)}{exported}; {_INSTALL}')
    for asked, able, what in (
      (modes, kind.modes, '--mode'),
      ([device], kind.devices, '--device'),
      ([compute_dtype], kind.compute_dtypes, '--dtype'),
    ):
      if not set(asked) & set(able):
        raise InputError(f'{where}: compares only with {what} {" or ".join(able)}; found {", ".join(asked)}')
  return list(dict.fromkeys(names))


def installed_peers(*, modes: Sequence[str], device: str, compute_dtype: str) -> list[str]:
  """All peers that can be compared here; says which are missing and how to get them. See `named_peers`."""
  able = {
    name: kind
    for name, kind in PEERS.items()
    if set(modes) & set(kind.modes) and device in kind.devices and compute_dtype in kind.compute_dtypes
  }
  missing = {name: _missing(kind) for name, kind in able.items()}
  if any(missing.values()):
    packages = dict.fromkeys(package for group in missing.values() for package in group)
    names = ', '.join(name for name, group in missing.items() if group)
    say(f'not compared: {names}; not installed: {", ".join(packages)}; {_INSTALL}')
  return [name for name, group in missing.items() if not group]


def _missing(kind: PeerKind) -> list[str]:
  return [package for package in kind.packages if importlib.util.find_spec(package) is None]
