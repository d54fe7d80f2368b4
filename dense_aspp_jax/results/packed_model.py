"""A run as one file: its weights, with its scores and where they come from."""

from __future__ import annotations

import contextlib
import pathlib

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import read_json
from dense_aspp_jax.label_sets import LABEL_SETS
from dense_aspp_jax.results.model_card import terms_of_use
from dense_aspp_jax.results.runs import read_run, without_machine_paths
from dense_aspp_jax.training import workdir as workdirs
from dense_aspp_jax.training.model_file import ModelRecord, write_model_file
from dense_aspp_jax.training.run import Run


def pack_run(run: Run, output: pathlib.Path, dtype: str = 'float16') -> ModelRecord:
  """Writes the network of a run as a model file, which `load_model` and every command take.

  Args:
    run: From `load_run`; its scores go into the file where it is finished and they are of this checkpoint.
    output: The file; replaced where it exists.
    dtype: Of kernels, 'float16' or 'float32'.

  Returns:
    What the file says of the weights.

  Raises:
    InputError: A weight is not finite in that type, or files of the run are damaged.
    RunError: It cannot be written.
  """
  config = without_machine_paths(run.config)
  config['data'] |= {'data_dir': None, 'cache_dir': None}
  if run.label_set.name not in LABEL_SETS:
    config['data']['label_set'] = workdirs.LABELS
  scores = []
  with contextlib.suppress(InputError):  # a run that goes on, or was trained elsewhere
    rows = read_run(run.workdir)
    of_run = (run.step, run.weights, run.bn)
    scores = [row for row in rows if (row.step, row.weights, row.protocol.bn) == of_run]
  dataset = config['data']['dataset']
  datasets = [dataset] if isinstance(dataset, str) else dataset
  data = read_json(run.workdir / workdirs.DATA, 'restore the files of the run', default={})
  record = ModelRecord(
    config=config,
    label_set=run.label_set,
    checkpoint=run.checkpoint,
    step=run.step,
    weights=run.weights,
    bn=run.bn,
    starts=without_machine_paths(run.starts),
    data=without_machine_paths(data),
    scores=[row.to_json() for row in scores],
    terms={name: terms_of_use([name]) for name in datasets},
  )
  write_model_file(output, run.variables, record, dtype)
  return record
