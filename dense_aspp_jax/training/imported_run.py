"""The authors' trained networks as runs, so that they can be evaluated like our own."""

from __future__ import annotations

import dataclasses
import pathlib

from dense_aspp_jax.datasets.data import Data
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import check_new_directory, new_directory, write_json
from dense_aspp_jax.label_sets import CITYSCAPES_19
from dense_aspp_jax.models.segmentation import PAPER_MODELS, Network
from dense_aspp_jax.provenance import provenance
from dense_aspp_jax.training import workdir as workdirs
from dense_aspp_jax.training.checkpoints import save_variables
from dense_aspp_jax.weights.convert import ForeignWeights, read_dense_aspp_weights


def convert_dense_aspp(architecture: str, path: pathlib.Path, output: pathlib.Path) -> ForeignWeights:
  """Writes a checkpoint of DeepMotionAIResearch/DenseASPP as the directory of a run.

  `load_run`, and with it evaluate, predict and the analyses, take it; it cannot be trained on.

  Args:
    architecture: A key of `PAPER_MODELS`.
    path: The .pth file.
    output: A new directory.

  Raises:
    InputError: Unknown architecture, unsafe, damaged or other weights, or an output that exists.
    RunError: It cannot be written.
  """
  check_new_directory(output)
  if architecture not in PAPER_MODELS:
    raise InputError(f'architecture {architecture!r}: expected one of {", ".join(PAPER_MODELS)}')
  network = Network(**PAPER_MODELS[architecture])
  fields = dataclasses.asdict(network)
  weights = read_dense_aspp_weights(architecture, path, network.create())
  data = Data(
    dataset='cityscapes',
    label_set=CITYSCAPES_19.name,
    image_size=(1024, 2048),
    mean=weights.mean,
    std=weights.std,
  )
  config = {
    'seed': None,  # trained elsewhere
    'model': fields,
    'data': dataclasses.asdict(data),
    'evaluation': {'batch_size': 1},
  }
  with new_directory(output) as folder:
    save_variables(folder, weights.variables, fields)
    write_json(folder / workdirs.LABELS, CITYSCAPES_19.to_json())
    write_json(folder / workdirs.PROVENANCE, [{'step': 0, 'converted': weights.description, **provenance()}])
    write_json(folder / workdirs.CONFIG, config)
  return weights
