import contextlib
import io
import json
import os
import pathlib
import shutil

import layouts
import optax
import pytest
from html_page import Page
from tiny_network import SHALLOW

from configs import default
from dense_aspp_jax.commands.main import main
from dense_aspp_jax.commands.report import report_run
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.label_sets import load_label_set
from dense_aspp_jax.models.segmentation import create_model
from dense_aspp_jax.training import workdir as workdirs
from dense_aspp_jax.training.checkpoints import Checkpoints
from dense_aspp_jax.training.train_state import create_state

ROOT = pathlib.Path(__file__).parents[2]


def train(workdir, dataset, data_dir):
  """Two steps, in process; returns what was printed."""
  arguments = [
    'train',
    f'--config={ROOT / "configs" / "default.py"}',
    f'--workdir={workdir}',
    f'--config.data.dataset=folder:{dataset}',
    f'--config.data.data_dir={data_dir}',
    '--config.data.image_size=(32, 64)',
    *(f'--config.model.{name}={value}' for name, value in SHALLOW.items()),
    '--config.training.num_epochs=1.0',
    '--config.training.batch_size=8',
  ]
  printed = io.StringIO()
  with contextlib.redirect_stdout(printed):
    assert main(arguments) == 0
  return printed.getvalue()


def make_run(workdir, folder, data_dir):
  """The run of a folder with labels.json, saved before its first step."""
  config = default.get_config()
  with config.unlocked():
    config.model.update(SHALLOW, num_classes=2)
    config.data.update(
      dataset=f'folder:{folder}', label_set=str(folder / 'labels.json'), data_dir=str(data_dir)
    )
    config.data.image_size = (32, 64)
  state = create_state(create_model(**config.model), optax.sgd(0.1), seed=0)
  label_set = load_label_set(config.data.label_set)
  with (
    workdirs.begin(workdir, {'directory': str(ROOT), **config.to_dict()}, label_set, {}),
    Checkpoints(workdir, 1) as checkpoints,
  ):
    checkpoints.save_best(state, 0.5)


@pytest.fixture(scope='module')
def trained(scene_folder, tmp_path_factory):
  """A run of Cityscapes' 20 classes with 5 validation images, and what training it printed."""
  root = tmp_path_factory.mktemp('report')
  return root / 'run', train(root / 'run', scene_folder, root / 'data')


@pytest.fixture
def workdir(trained, tmp_path):
  """A copy of the run, to change."""
  shutil.copytree(trained[0], tmp_path / 'run')
  return tmp_path / 'run'


def text_of(path):
  return Page(path.read_text(encoding='utf-8')).text


def report(workdir, *options):
  return main(['report', '--workdir', str(workdir), *map(str, options)])


def test_training_ends_with_the_report_of_all_images(trained):
  workdir, printed = trained
  assert printed.splitlines()[-1] == f'report {workdir / "report.html"}'
  text = text_of(workdir / 'report.html')
  scores = json.loads((workdir / 'scores.json').read_text())  # of the last step, which is the best too
  for name in ('mean_iou_19', 'mean_iou_20', 'pixel_accuracy'):
    assert f' {100 * scores[name]:.2f} % ' in text
  best = max(scores['iou'], key=lambda name: scores['iou'][name] or 0)
  assert f'It does best on {best} (IoU {100 * scores["iou"][best]:.1f} %)' in text
  for words in (
    'Images scored 5',
    'Steps 2',
    'of the layer dense_aspp over 5 images',
    'Scored on 5 images',
    'Checkpoint best, step 2.',
    'Started at step 0',
    '5 of 5 images, evenly',
  ):
    assert words in text
  assert f'data.dataset {scores["config"]["data"]["dataset"]} ' in text
  assert not (workdir / 'analysis').exists()  # that is for the commands


def test_what_the_commands_stored_is_used(workdir):
  for command in (['similarity', '--images=1'], ['remove-layers', '--images=4', '--pictures=1']):
    assert main([*command, f'--workdir={workdir}']) == 0
  stored = workdir / 'analysis' / 'similarity' / 'similarity.json'
  data = json.loads(stored.read_text())
  stored.write_text(json.dumps({**data, 'images': 77}))  # to be told from an analysis run again
  assert report(workdir, '--images', 1) == 0
  text = text_of(workdir / 'report.html')
  assert 'of the layer dense_aspp over 77 images' in text
  assert 'Scored on 4 images' in text


def test_other_analyses_are_neither_used_nor_lost(workdir, tmp_path, capsys):
  """Those stored are of other variables and data: they are run on the first images, the scores are of all."""
  run = {'checkpoint': 'latest', 'step': 2, 'weights': 'raw', 'bn': 'running', 'split': 'validation'}
  dataset = json.loads((workdir / 'config.json').read_text())['data']['dataset']
  run |= {'dataset': dataset, 'data_dir': None, 'pictures': [], 'images': 77}
  others = {
    'similarity': run | {'layer': 'dense_aspp', 'matrix_picture': 'm.png', 'bn': 'recalibrated'},
    'layer_removal': run | {'curves_picture': 'm.png', 'split': 'train'},
  }
  for name, data in others.items():
    (workdir / 'analysis' / name).mkdir(parents=True)
    (workdir / 'analysis' / name / f'{name}.json').write_text(json.dumps(data))
    (workdir / 'analysis' / name / 'm.png').write_bytes(b'')
  (workdir / 'metrics.jsonl').unlink()
  (workdir / 'provenance.json').unlink()
  before = {path: path.stat().st_mtime_ns for path in workdir.rglob('*')}
  output = tmp_path / 'new' / 'page.html'
  assert report(workdir, '--images', 3, '--pictures', 2, '--checkpoint', 'latest', '--output', output) == 0
  assert capsys.readouterr().out == f'report {output}\n'
  assert {path: path.stat().st_mtime_ns for path in workdir.rglob('*')} == before
  text = text_of(output)
  for words in (
    'Images scored 5',
    'of the layer dense_aspp over 3 images',
    'Scored on 3 images',
    '2 of 5 images, evenly',
    'Checkpoint latest, step 2.',
    'no metrics.jsonl',
  ):
    assert words in text
  assert 'Started at step' not in text


def test_a_label_set_with_an_ignored_id_has_one_mean(tmp_path):
  folder = tmp_path / 'own'
  layouts.write_labelled_folder(folder, {'train': 8, 'validation': 3}, (32, 64), num_ids=3)
  labels = json.loads((folder / 'labels.json').read_text())
  labels['classes'], labels['ignore_ids'] = labels['classes'][:2], [2]
  (folder / 'labels.json').write_text(json.dumps(labels))
  name = os.fsdecode(b'caf\xe9 ' + b'x' * 240)  # not UTF-8, and as long as a name may be
  for kind in ('images', 'labels'):
    (folder / 'validation' / kind / 'scene_000.png').rename(folder / 'validation' / kind / f'{name}.png')
  make_run(tmp_path / 'run', folder, tmp_path / 'data')
  assert report(tmp_path / 'run', '--images', 1) == 0
  assert (
    main(['evaluate', '--workdir', str(tmp_path / 'run'), '--output', str(tmp_path / 'scores.json')]) == 0
  )
  text = text_of(tmp_path / 'run' / 'report.html')
  scores = json.loads((tmp_path / 'scores.json').read_text())
  assert f'Mean IoU {100 * scores["mean_iou"]:.2f} %' in text
  assert '19 classes' not in text
  assert 'wrong pixels and ignored pixels over the grey image' in text
  assert 'caf\\udce9 xxx' in text


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (['--images', '0'], '--images 0: expected at least 1'),
    (['--pictures', '0'], '--pictures 0: expected at least 1'),
    (['--checkpoint', '7'], "no checkpoint '7'"),
    (['--split', 'nowhere'], 'nowhere'),
    (['--output', '.'], '.: a folder; --output expects the name of an HTML file'),
  ],
)
def test_bad_options_are_refused_and_nothing_is_written(
  trained, options, message, capsys, monkeypatch, tmp_path
):
  monkeypatch.chdir(tmp_path)
  before = (trained[0] / 'report.html').stat().st_mtime_ns
  assert report(trained[0], *options) == 2
  error = capsys.readouterr().err.splitlines()[-1]
  assert error.startswith('dense-aspp report: ')
  assert message in error
  assert (trained[0] / 'report.html').stat().st_mtime_ns == before
  assert not list(tmp_path.iterdir())


def test_a_directory_that_is_no_run_is_refused(tmp_path, capsys):
  assert report(tmp_path) == 2
  assert 'not the directory of a run' in capsys.readouterr().err


@pytest.mark.parametrize(('options', 'where'), [([], 'gone'), (['--data-dir', 'moved'], 'moved')])
def test_the_data_are_read_where_the_option_or_the_run_says(workdir, options, where, capsys):
  config = json.loads((workdir / 'config.json').read_text())
  config['data'].update(dataset='cityscapes', data_dir='gone')
  (workdir / 'config.json').write_text(json.dumps(config))
  assert report(workdir, *options) == 2
  error = capsys.readouterr().err
  assert where in error
  assert 'cityscapes' in error


def test_a_stored_analysis_that_is_broken_is_named(workdir, capsys):
  path = workdir / 'analysis' / 'similarity' / 'similarity.json'
  path.parent.mkdir(parents=True)
  path.write_text('{')
  assert report(workdir) == 2
  assert f'dense-aspp report: {path}: cannot be read as JSON' in capsys.readouterr().err


@pytest.fixture
def finished(monkeypatch):
  """`train` without the training: it has reached its end."""
  monkeypatch.setattr(
    'dense_aspp_jax.commands.train.train_and_evaluate', lambda config, workdir, strict_resume: 'scores'
  )
  return ['train', f'--config={ROOT / "configs" / "default.py"}', '--workdir=runs/x']


def test_a_failing_report_does_not_fail_the_training(finished, monkeypatch, capsys):
  def fail(*_, **__):
    raise ValueError('no picture\nmore')

  monkeypatch.setattr('dense_aspp_jax.commands.report.report_run', fail)
  assert main(finished) == 0
  printed = capsys.readouterr()
  assert printed.out == ''
  assert printed.err == (
    'making the report of the run ...\n'
    'no report was written (ValueError: no picture); the run is complete, and '
    'dense-aspp report --workdir runs/x --split validation writes it\n'
  )


def test_an_interrupted_report_is_an_interrupt(finished, monkeypatch):
  def fail(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr('dense_aspp_jax.commands.report.report_run', fail)
  assert main(finished) == 130


@pytest.mark.parametrize(('process', 'lines'), [(0, 1), (1, 0)])
def test_several_processes_say_how_to_make_the_report(finished, monkeypatch, capsys, process, lines):
  monkeypatch.setattr('jax.process_count', lambda: 2)
  monkeypatch.setattr('jax.process_index', lambda: process)
  assert main(finished) == 0
  line = 'no report is written by several processes: dense-aspp report --workdir runs/x --split validation\n'
  assert capsys.readouterr().out == lines * line


def test_the_report_is_of_the_split_that_the_run_validates_on(finished, monkeypatch, capsys):
  made = []
  monkeypatch.setattr(
    'dense_aspp_jax.commands.report.report_run', lambda *a, **k: made.append((a, k)) or 'page.html'
  )
  assert main([*finished, '--config.data.validation_split=val2']) == 0
  assert made == [((pathlib.Path('runs/x'), 'val2'), {})]
  assert capsys.readouterr().out == 'report page.html\n'


def test_a_training_may_do_without_a_report(finished, monkeypatch, capsys):
  monkeypatch.setattr('dense_aspp_jax.commands.report.report_run', lambda *_, **__: pytest.fail('called'))
  assert main([*finished, '--no-report']) == 0
  assert capsys.readouterr().out == ''


def test_the_report_of_a_run_is_not_that_of_a_packaged_network_of_its_name(monkeypatch):
  monkeypatch.setattr('dense_aspp_jax.commands.report._write_report', lambda args: args.model)
  assert report_run(pathlib.Path('streets'), 'validation') == pathlib.Path('streets')


@pytest.mark.parametrize('end', ['finished before', 'failed'])
def test_there_is_no_new_report_where_the_training_did_nothing(finished, monkeypatch, tmp_path, end):
  def training(config, workdir, strict_resume):
    if end == 'failed':
      raise InputError('bad')

  monkeypatch.setattr('dense_aspp_jax.commands.train.train_and_evaluate', training)
  monkeypatch.setattr('dense_aspp_jax.commands.report.report_run', lambda *_, **__: pytest.fail('called'))
  (tmp_path / 'report.html').touch()
  assert main([*finished, f'--workdir={tmp_path}']) == (2 if end == 'failed' else 0)


def test_a_finished_run_without_its_report_gets_it(finished, monkeypatch, tmp_path, capsys):
  folder = tmp_path / 'my run'
  folder.mkdir()
  monkeypatch.setattr(
    'dense_aspp_jax.commands.train.train_and_evaluate', lambda config, workdir, strict_resume: None
  )

  def fail(*_, **__):
    raise ValueError('no picture')

  monkeypatch.setattr('dense_aspp_jax.commands.report.report_run', fail)
  assert main([*finished, f'--workdir={folder}']) == 0
  assert f"dense-aspp report --workdir '{folder}' --split validation writes it" in capsys.readouterr().err
  (folder / 'report.html').touch()
  assert main([*finished, f'--workdir={folder}']) == 0
  assert capsys.readouterr().out == f'report {folder / "report.html"}\n'
