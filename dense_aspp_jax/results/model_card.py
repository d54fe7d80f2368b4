"""A finished run as a folder to publish: model card, weights, configuration, log, checksums.

NAME/README.md             the model card, with the front matter that Hugging Face reads
NAME/config.json ...       the files of a run's directory, without a path of the machine
NAME/checkpoints/best/STEP the last checkpoint: variables, and their moving averages where the run has them
NAME/SHA256SUMS            of every other file, for `sha256sum -c`

The folder is a run's directory: `load_run`, evaluate, predict and the analyses take it.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence

import jinja2

from dense_aspp_jax.checkpoint_io import load_checkpoint, read_digests, read_record, save_checkpoint
from dense_aspp_jax.datasets.prepare import DATASETS
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import new_directory, read_json, write_file, write_json
from dense_aspp_jax.label_sets import LABEL_SETS
from dense_aspp_jax.models.counts import abstract_variables
from dense_aspp_jax.models.segmentation import create_model
from dense_aspp_jax.results.runs import EVALUATIONS, METRICS, REMEDY, Row, without_machine_paths
from dense_aspp_jax.results.summary import summarize
from dense_aspp_jax.results.table import card_tables
from dense_aspp_jax.training import workdir as workdirs
from dense_aspp_jax.training.checkpoints import BEST, EMA, LATEST, checkpoints_directory

CARD = 'README.md'
SUMS = 'SHA256SUMS'
_ORBAX_DONE = 'commit_success.txt'  # names the place where the checkpoint was written
_LOW_IOU = 0.5
_SECTIONS = ('seed', 'model', 'augmentation', 'loss', 'optimizer', 'training')  # of the configuration
_OTHER_TERMS = "The images are a folder of somebody's own: its owner says what may be done with them."


def write_cards(rows_of: Mapping[pathlib.Path, Sequence[Row]], directory: pathlib.Path) -> list[pathlib.Path]:
  """Writes a folder for each run, with the name of its directory, atomically; returns the folders.

  Args:
    rows_of: What `read_run` returned, by the runs' directories.
    directory: May be missing.

  Raises:
    InputError: A folder of that name exists or two runs have one name, found before anything is written;
      or the last checkpoint is missing or damaged.
    RunError: A folder cannot be written.
  """
  names = [workdir.resolve().name for workdir in rows_of]
  repeated = sorted({name for name in names if names.count(name) > 1})
  if repeated:
    raise InputError(
      f'two runs are named {", ".join(repeated)}; nothing was written. Rename one, or give one'
    )
  existing = [str(directory / name) for name in names if (directory / name).exists()]
  if existing:
    raise InputError(
      f'{", ".join(existing)}: exists already; nothing was written. Remove it, or choose another --cards'
    )
  return [
    _write_card(workdir, rows, directory / name)
    for (workdir, rows), name in zip(rows_of.items(), names, strict=True)
  ]


def weights_digest(checkpoint: pathlib.Path) -> str:
  """A digest of a checkpoint's arrays that does not depend on how they are stored.

  The SHA-256 of the lines 'NAME DIGEST', sorted, one for each array: its path in the trees, such as
  'params/extractor/conv0/kernel', and the SHA-256 that was kept with it.
  """
  lines = sorted(f'{name} {digest}\n' for name, digest in read_digests(checkpoint).items())
  return hashlib.sha256(''.join(lines).encode()).hexdigest()


def _write_card(workdir: pathlib.Path, rows: Sequence[Row], target: pathlib.Path) -> pathlib.Path:
  stored, label_set = workdirs.read_config(workdir), workdirs.read_label_set(workdir)
  scores = read_json(workdir / workdirs.SCORES, REMEDY)
  step = scores['step']
  source = checkpoints_directory(workdir) / LATEST / str(step)
  variables = dict(abstract_variables(create_model(**stored['model'])))
  if scores['ema'] is not None:
    variables[EMA] = dict(variables)
  variables = load_checkpoint(source, variables)
  config = without_machine_paths(stored)
  config['data']['data_dir'] = None
  if label_set.name not in LABEL_SETS:
    config['data']['label_set'] = workdirs.LABELS
  with new_directory(target) as folder:
    write_json(folder / workdirs.CONFIG, config)
    write_json(folder / workdirs.LABELS, label_set.to_json())
    starts = without_machine_paths(workdirs.read_starts(workdir))
    write_json(folder / workdirs.PROVENANCE, starts)
    data = read_json(workdir / workdirs.DATA, REMEDY)
    write_json(folder / workdirs.DATA, without_machine_paths(data))
    evaluations = {path: read_json(path, REMEDY) for path in sorted((workdir / EVALUATIONS).glob('*.json'))}
    for path, record in {workdir / workdirs.SCORES: scores, **evaluations}.items():
      if record['step'] == step:
        write_json(folder / path.relative_to(workdir), without_machine_paths({**record, 'config': config}))
    if (workdir / METRICS).exists():
      write_file(folder / METRICS, (workdir / METRICS).read_bytes())
    checkpoint = checkpoints_directory(folder) / BEST / str(step)
    checkpoint.parent.mkdir(parents=True)
    save_checkpoint(checkpoint, variables, read_record(source), shown=target)
    done = checkpoint / _ORBAX_DONE
    if done.exists():
      write_file(done, without_machine_paths(done.read_text(encoding='utf-8')).encode())
    rows = [row for row in rows if row.step == step]
    row = next((row for row in rows if row.weights == EMA), rows[0])  # of the weights that load_run loads
    datasets = [row.protocol.dataset, *(other['dataset'] for other in row.protocol.also_trained_on)]
    standard = row.protocol.standard  # also for a copy of the data in a folder
    weak = {c: iou for c, iou in row.scores.iou.items() if iou is not None and iou < _LOW_IOU}
    card = jinja2.Template(
      pathlib.Path(__file__).with_name('model_card.md.jinja').read_text(encoding='utf-8'),
      trim_blocks=True,
      keep_trailing_newline=True,
      undefined=jinja2.StrictUndefined,
    ).render(
      name=target.name,
      row=row,
      protocol=row.protocol,
      classes=label_set.class_names,
      pretrained=next((s['extractor_weights'] for s in starts if 'extractor_weights' in s), None),
      started=next((s['init_run'] for s in starts if 'init_run' in s), None),
      has_ema=row.weights == EMA,
      tables=card_tables(summarize(rows).groups),
      weak=[f'{c} ({100 * iou:.1f})' for c, iou in weak.items()],
      low=f'{100 * _LOW_IOU:.0f}',
      fields=json.dumps({section: config[section] for section in _SECTIONS}, indent=1),
      datasets=datasets,
      terms=terms_of_use([standard.dataset if standard else datasets[0], *datasets[1:]]),
      digest=weights_digest(checkpoint),
    )
    write_file(folder / CARD, card.encode())
    files = sorted(path for path in folder.rglob('*') if path.is_file())
    sums = [f'{_sha256(path)}  {path.relative_to(folder).as_posix()}\n' for path in files]
    write_file(folder / SUMS, ''.join(sums).encode())
  return target


def _sha256(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def terms_of_use(datasets: Sequence[str]) -> str:
  """What a card says of the images that a network was trained on."""
  terms, judged = [], ''
  for dataset in datasets:
    published = DATASETS.get(dataset)
    of = f'{dataset}: ' if len(datasets) > 1 else ''
    terms.append(f'{of}{published.terms if published else _OTHER_TERMS}')
    if published and not published.generate:
      judged = ' Whether that binds trained weights is yours to judge.'
  return f'{" ".join(terms)}{judged}'
