"""`dense-aspp similarity` and `dense-aspp remove-layers`, on a small run."""

import json
import pathlib
import shutil

import pytest
from tiny_network import TINY, draw_variables, tiny_config

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.files import write_json
from dense_aspp_jax.label_sets import CITYSCAPES_20
from dense_aspp_jax.models.counts import abstract_variables
from dense_aspp_jax.models.segmentation import create_model
from dense_aspp_jax.training.checkpoints import save_variables

# What the commands print of a result, without one.
SETTING = {'kind': 'none', 'removed': [], 'scores': {'iou': {'road': 0.5}, 'mean_iou': 0.5}}
ANALYSED = {'most_confused': [], 'images': 1, 'layers': [], 'settings': [SETTING], 'lost_first': []}


@pytest.fixture(scope='module')
def workdir(tiny_run, scene_folder, tmp_path_factory):
  """A copy of `tiny_run` with the data of `scene_folder`."""
  path = shutil.copytree(tiny_run, tmp_path_factory.mktemp('run') / 'work')
  config = json.loads((path / 'config.json').read_text())
  config['data'].update(dataset=f'folder:{scene_folder}', data_dir=str(scene_folder.parent / 'data'))
  (path / 'config.json').write_text(json.dumps(config))
  return path


def run(*arguments):
  return main([str(a) for a in arguments])


def test_similarity_writes_into_the_workdir_and_names_the_most_confused(workdir, capsys):
  assert run('similarity', '--workdir', workdir, '--images', 2) == 0
  folder = workdir / 'analysis' / 'similarity'
  result = json.loads((folder / 'similarity.json').read_text())
  assert result['classes'] == list(CITYSCAPES_20.class_names)
  assert sum(result['pixels'].values()) == 5 * 64 * 128  # void is a class of this set
  assert (result['layer'], result['images'], result['split']) == ('dense_aspp', 5, 'validation')
  assert (result['step'], result['checkpoint'], result['seed']) == (0, 'best', 0)
  assert (result['weights'], result['bn']) == ('raw', 'running')
  assert result['config'] == json.loads((workdir / 'config.json').read_text())
  assert result['provenance']['libraries']['jax']
  assert 'ignored pixels belong to no class' in result['protocol']
  assert len(result['pictures']) == 2
  files = {result['matrix_picture'], result['means_file'], *result['pictures'], *result['maps']}
  assert {p.name for p in folder.iterdir()} == {'similarity.json', *files}
  head, *pairs, last = capsys.readouterr().out.splitlines()
  assert head == 'most confused classes, by the cosine of their mean features (dense_aspp):'
  assert [line.split(maxsplit=1)[1] for line in pairs] == [
    ' / '.join(p['classes']) for p in result['most_confused']
  ]
  assert last == f'5 images; pictures and similarity.json in {folder}'


def test_another_layer_has_its_own_folder(workdir):
  options = ('--layer', 'layer1', '--split', 'train', '--images', 1)
  assert run('similarity', '--workdir', workdir, *options) == 0
  result = json.loads((workdir / 'analysis' / 'similarity_layer1' / 'similarity.json').read_text())
  assert (result['layer'], result['images'], result['split']) == ('layer1', 16, 'train')
  assert len(result['pictures']) == 1


def test_remove_layers_begins_with_the_scores_of_evaluate(workdir, tmp_path, capsys):
  assert run('evaluate', '--workdir', workdir, '--output', tmp_path / 'e.json') == 0
  capsys.readouterr()
  assert run('remove-layers', '--workdir', workdir, '--pictures', 1) == 0
  folder = workdir / 'analysis' / 'layer_removal'
  result = json.loads((folder / 'layer_removal.json').read_text())
  evaluated = json.loads((tmp_path / 'e.json').read_text())
  full = result['settings'][0]
  assert (full['kind'], full['removed']) == ('none', [])
  for name in ('mean_iou_19', 'mean_iou_20', 'pixel_accuracy', 'iou'):
    assert full['scores'][name] == evaluated[name]
  assert [s['removed'] for s in result['settings'][1:]] == [[2], [1, 2], [1], [2]]
  assert result['layers'] == [{'name': 'layer1', 'dilation': 1}, {'name': 'layer2', 'dilation': 2}]
  assert (result['images'], result['split'], result['step'], result['seed']) == (5, 'validation', 0, 0)
  assert result['config'] == evaluated['config']
  assert result['provenance']['libraries']['jax']
  assert evaluated['protocol'] in result['protocol']
  pictures = {result['curves_picture'], *result['pictures']}
  assert len(pictures) == 2
  assert {p.name for p in folder.iterdir()} == {'layer_removal.json', *pictures}
  head, *_, lost, last = capsys.readouterr().out.splitlines()
  assert head.split() == ['IoU', 'in', '%', 'full', 'top', '1', 'top', '2', 'no', '1', 'no', '2']
  expected = [f'{e["class"]} with {e["layers_removed"]} of 2 layers removed' for e in result['lost_first']]
  named = f'lost first (IoU below half): {", ".join(expected)}'
  assert lost == (named if expected else 'no class loses half of its IoU')
  assert last == f'5 images; pictures and layer_removal.json in {folder}'


def test_remove_layers_scores_the_first_images_alone(workdir, tmp_path):
  for count in (2, 99):
    options = ('--images', count, '--pictures', 3, '--output', tmp_path / str(count))
    assert run('remove-layers', '--workdir', workdir, *options) == 0
  two, all_of_them = (
    json.loads((tmp_path / str(count) / 'layer_removal.json').read_text()) for count in (2, 99)
  )
  assert (two['images'], len(two['pictures'])) == (2, 2)
  assert (all_of_them['images'], len(all_of_them['pictures'])) == (5, 3)
  assert two['settings'][0]['scores'] != all_of_them['settings'][0]['scores']


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('similarity', '--images', 0), '--images 0: expected at least 1'),
    (
      ('similarity', '--layer', 'layer9'),
      "layer 'layer9': this network has extractor, layer1, layer2, dense",
    ),
    (('similarity', '--split', 'none'), "'none'"),
    (('remove-layers', '--images', 0), '--images 0: expected at least 1'),
    (('remove-layers', '--pictures', -1), '--pictures -1: expected at least 0'),
    (('remove-layers', '--checkpoint', 7), "no checkpoint '7'"),
  ],
)
def test_bad_input_is_named(workdir, tmp_path, arguments, message, capsys):
  assert run(*arguments, '--workdir', workdir, '--output', tmp_path / 'new') == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('command', ['similarity', 'remove-layers'])
def test_an_output_that_is_a_file_is_refused(workdir, tmp_path, command, capsys):
  (tmp_path / 'file').write_text('')
  assert run(command, '--workdir', workdir, '--output', tmp_path / 'file') == 2
  assert (
    f'{tmp_path / "file"} is not a directory that can be written; choose another --output'
    in capsys.readouterr().err
  )


@pytest.mark.parametrize(
  ('command', 'option', 'analysis'),
  [
    ('similarity', '--images', 'analyse_similarity'),
    ('remove-layers', '--pictures', 'analyse_layer_removal'),
  ],
)
def test_a_second_result_replaces_the_first(workdir, tmp_path, monkeypatch, command, option, analysis):
  def analyse(*_, num_pictures: int, output: pathlib.Path, **__):
    for index in range(num_pictures):
      (output / f'{index}.png').touch()
    return ANALYSED

  monkeypatch.setattr(f'dense_aspp_jax.commands.{command.replace("-", "_")}.{analysis}', analyse)
  counts = []
  for count in (2, 1):
    assert run(command, '--workdir', workdir, option, count, '--output', tmp_path / 'new') == 0
    counts.append(len(list((tmp_path / 'new').glob('*.png'))))
  assert counts == [2, 1]
  assert [p.name for p in tmp_path.iterdir()] == ['new']


def test_a_folder_of_something_else_is_left_alone(workdir, tmp_path, capsys):
  (tmp_path / 'mine.txt').write_text('precious')
  assert run('similarity', '--workdir', workdir, '--output', tmp_path) == 2
  assert f'{tmp_path}: expected a new or an empty folder' in capsys.readouterr().err
  assert [p.name for p in tmp_path.iterdir()] == ['mine.txt']


@pytest.mark.parametrize(
  'arguments',
  [
    ('similarity',),
    ('remove-layers',),
    ('receptive-field',),
    ('report',),
    ('recalibrate',),
    ('evaluate', '--output', 'scores.json'),
  ],
)
def test_a_run_on_a_read_only_disk_is_refused_before_the_work(workdir, arguments, monkeypatch, capsys):
  monkeypatch.setattr('os.access', lambda *_, **__: False)  # as on a disk that is mounted so
  monkeypatch.setattr('dense_aspp_jax.training.run.read_config', pytest.fail)
  assert run(*arguments, '--workdir', workdir) == 2
  assert 'not a directory that can be written' in capsys.readouterr().err


def test_a_network_without_a_cascade_has_no_layers_to_remove(scene_folder, tmp_path, capsys):
  config = tiny_config(scene_folder, TINY | {'dilation_rates': ()})
  variables = draw_variables(abstract_variables(create_model(**config.model)))
  workdir = tmp_path / 'work'
  save_variables(workdir, variables, config.model.to_dict())
  write_json(workdir / 'labels.json', CITYSCAPES_20.to_json())
  write_json(workdir / 'config.json', config.to_dict())
  assert run('remove-layers', '--model', workdir) == 2
  message = f'dense-aspp remove-layers: {workdir}: a network without atrous layers, so none can be removed\n'
  assert capsys.readouterr().err == message
  assert not (workdir / 'analysis').exists()
  assert run('report', '--model', workdir, '--output', tmp_path / 'report.html') == 0
  page = (tmp_path / 'report.html').read_text()
  assert 'href="#similarity"' in page
  assert '#layers' not in page
  assert 'layers removed' not in page
