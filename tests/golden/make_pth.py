"""Writes tests/golden/state_{zip,legacy}.pth, two small files of real torch, and the values they hold.

  python tests/golden/make_pth.py tests/golden        # needs torch; made with 2.13.0

The values are stored in state.npz; bfloat16, which .npz files cannot hold, as float32.
"""

from __future__ import annotations

import argparse
import collections
import pathlib

import numpy as np
import torch


def make_state() -> collections.OrderedDict[str, torch.Tensor]:
  """A state dict with one entry of every kind a reader must know."""
  torch.manual_seed(0)
  base = torch.randn(3, 4)
  norm = torch.nn.BatchNorm2d(2)
  state = norm.state_dict()  # has the attribute _metadata and num_batches_tracked, int64 of shape ()
  state['transposed'] = base.T
  state['slice_of_the_same_storage'] = base[1:, ::2]
  state['parameter'] = torch.nn.Parameter(torch.randn(2, 1, 3))
  state['empty'] = torch.zeros(0, 5)
  state['bool'] = torch.tensor([True, False, True])
  for name in ('float64', 'float32', 'float16', 'bfloat16'):
    state[name] = torch.randn(5).to(getattr(torch, name))
  for name in ('int64', 'int32', 'int16', 'int8', 'uint8'):
    state[name] = torch.tensor([0, 1, 127]).to(getattr(torch, name))
  return state


def main() -> None:
  """Writes the three files."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('output', type=pathlib.Path, help='folder')
  output = parser.parse_args().output
  state = make_state()
  torch.save(state, output / 'state_zip.pth')
  torch.save(state, output / 'state_legacy.pth', _use_new_zipfile_serialization=False)
  values = {
    name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
    for name, tensor in state.items()
  }
  np.savez(output / 'state.npz', **values)


if __name__ == '__main__':
  main()
