"""Links, pipes and names in any bytes, where data sets are listed, checked and cached."""

import contextlib
import io
import os
import pathlib

import layouts
import pytest

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.datasets import camvid
from dense_aspp_jax.datasets.cache import DecodedSplit, open_cache
from dense_aspp_jax.datasets.folder import list_folder, open_folder
from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import shown
from dense_aspp_jax.label_sets import load_label_set

NAME = os.fsdecode(b'caf\xe9\n')


@pytest.fixture
def folder(tmp_path):
  layouts.write_labelled_folder(tmp_path / 'scenes', {'train': 3, 'validation': 1})
  return tmp_path / 'scenes'


def check_data(folder, encoding='ascii'):
  """Exit code of check-data on a stdout that takes nothing but `encoding`, and what it printed."""
  printed = io.BytesIO()
  with contextlib.redirect_stdout(io.TextIOWrapper(printed, encoding=encoding, errors='strict')) as stdout:
    code = main(['check-data', f'folder:{folder}'])
    stdout.flush()
  return code, printed.getvalue().decode(encoding)


def replace_by_link(path, target):
  path.rename(target)
  path.symlink_to(target)


@pytest.mark.parametrize('linked', ['train', 'train/images', 'train/labels', 'train/images/scene_001.png'])
def test_a_labelled_folder_may_be_made_of_links(folder, tmp_path, linked):
  pairs = [layouts.read_pair(pair) for pair in open_folder(folder, 'train')]
  replace_by_link(folder / linked, tmp_path / pathlib.Path(linked).name)
  (tmp_path / 'link').symlink_to(folder)
  for place in (folder, tmp_path / 'link'):
    split = open_folder(place, 'train')
    assert [layouts.read_pair(pair) for pair in split] == pairs
    assert check_data(place)[0] == 0


def test_a_loop_of_links_in_a_labelled_folder_is_left_out(folder):
  (folder / 'train' / 'images' / 'up').symlink_to('..')
  (folder / 'train' / 'images' / 'data').symlink_to(folder)
  assert [pair.image_id for pair in open_folder(folder, 'train')] == ['scene_000', 'scene_001', 'scene_002']


def test_a_pair_whose_links_lead_nowhere_is_not_left_out(folder):
  """As after `git annex` or `dvc` without the content: training on the others would go unnoticed."""
  for kind in ('images', 'labels'):
    path = folder / 'train' / kind / 'scene_001.png'
    path.unlink()
    path.symlink_to('../../.git/annex/objects/scene_001.png')
  code, printed = check_data(folder)
  assert code == 2
  assert f'{folder}/train/images/scene_001.png: cannot be read (No such file' in printed
  with pytest.raises(InputError, match=r'scene_001\.png: cannot be read'):
    open_cache(decoded(folder), folder.parent / 'cache')


def test_a_pipe_among_the_images_is_not_waited_for(folder):
  os.mkfifo(folder / 'train' / 'images' / 'a.png')
  code, printed = check_data(folder)
  assert code == 0
  assert '1 pipe' in printed
  assert f'{folder}/train/images/a.png' in printed


def test_camvid_may_be_made_of_links(tmp_path):
  layouts.write_camvid(tmp_path / 'CamVid', {'train': 3, 'validation': 2})
  plain = camvid.list_files(tmp_path / 'CamVid')
  for name in ('train', 'trainannot', 'val/0001TP_006690.png'):
    replace_by_link(tmp_path / 'CamVid' / name, tmp_path / pathlib.Path(name).name)
  (tmp_path / 'link').symlink_to('CamVid')
  for source in ('CamVid', 'link'):
    linked = camvid.list_files(tmp_path / source)
    assert linked.splits.keys() == plain.splits.keys()
    for split, listing in linked.splits.items():
      pairs = zip(listing.require(), plain.splits[split].require(), strict=True)
      assert all(layouts.read_pair(one) == layouts.read_pair(other) for one, other in pairs)


def decoded(folder):
  label_set = load_label_set(str(folder / 'labels.json'))
  preprocessing = Preprocessing((16, 24), (0, 0, 0), (1, 1, 1), True)
  return DecodedSplit(open_folder(folder, 'train'), label_set, preprocessing, False)


@pytest.mark.parametrize('encoding', ['ascii', 'latin-1', 'utf-8'])
def test_names_in_any_bytes_are_shown_on_any_stdout(folder, encoding):
  for kind in ('images', 'labels'):
    (folder / 'train' / kind / 'scene_001.png').rename(folder / 'train' / kind / f'{NAME}.png')
  folder = folder.rename(folder.with_name(os.fsdecode(b'sc\xe8nes')))
  assert check_data(folder, encoding)[0] == 0
  (folder / 'train' / 'labels' / f'{NAME}.png').unlink()
  code, printed = check_data(folder, encoding)
  assert code == 2
  assert f'{shown(folder)}/train/images/caf\\xe9\\x0a.png: image without label' in printed


def test_names_in_any_bytes_are_cached(folder):
  """Of the image, of the folder, and of the place of the cache."""
  for kind in ('images', 'labels'):
    (folder / 'train' / kind / 'scene_001.png').rename(folder / 'train' / kind / f'{NAME}.png')
  folder = folder.rename(folder.with_name(os.fsdecode(b'sc\xe8nes')))
  cache = open_cache(decoded(folder), folder.parent / os.fsdecode(b'cach\xe9'))
  assert [cache[i].image_id for i in range(3)] == [NAME, 'scene_000', 'scene_002']
  again = open_cache(decoded(folder), folder.parent / os.fsdecode(b'cach\xe9'))
  assert again.path == cache.path
  assert list_folder(folder, 'train').pairs[0].image_id == NAME
