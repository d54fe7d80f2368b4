import dataclasses
import itertools

import pytest
from results_example import make_config, make_run, unpadded

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.metrics import Scores
from dense_aspp_jax.results.protocol import ONE_MATRIX, STANDARDS, Protocol
from dense_aspp_jax.results.runs import Design, Row, read_run
from dense_aspp_jax.results.summary import summarize
from dense_aspp_jax.results.table import (
  card_tables,
  markdown,
  readme_block,
  replace_block,
  scored_words,
  text,
)

TOY = Protocol(
  dataset='folder:toy',
  split='validation',
  images=5,
  train_split='train',
  train_images=16,
  image_size=[64, 128],
  label_set='two',
  classes=2,
  void_ignored=True,
  metric=ONE_MATRIX,
  bn='running',
  checkpoint='last',
  pretraining=['ImageNet'],
)
FLIP = {'flip': True, 'scales': [1.0], 'window': None}


def toy_row(seed, mean_iou, protocol=TOY, **changes):
  row = Row(
    run=f'toy_s{seed}',
    seed=seed,
    step=8,
    network='densenet121',
    parameters=1_234_567,
    weights='raw',
    config_hash='0123456789ab',
    scores=Scores({'mean_iou': mean_iou}, 0.9, {'road': mean_iou + 0.1, 'sky|cloud': None}),
    protocol=protocol,
    commands=[f'train.py --workdir=runs/toy_s{seed}'],
    git_commits=['f' * 40 + '+changes'],
    devices=['2 x gpu: NVIDIA H200'],
    hours=1.234,
  )
  return dataclasses.replace(row, **changes)


def toy_results():
  flip = toy_row(
    0,
    0.6,
    dataclasses.replace(TOY, test_time=FLIP, checkpoint='best', selected_on='validation'),
    weights='ema',
    evaluation_command='dense-aspp evaluate --flip',
  )
  return summarize([toy_row(0, 0.5), toy_row(1, 0.54), flip])


# Deviation: 0.02 * sqrt(2) = 0.0283.
MAIN = """\
| run | network | parameters | pretraining | scored | seeds | mean IoU | per seed | pixel accuracy | \
not comparable because |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| toy | densenet121 | 1,234,567 | ImageNet | validation split | 0, 1 | 52.00 ± 2.83 | 50.00, 54.00 | \
90.00 ± 0.00 | - |
| toy_s0 | densenet121 | 1,234,567 | ImageNet | validation split, EMA weights, flip, best checkpoint | 0 | \
60.00 | 60.00 | 90.00 | - |

- `toy_s0`: seed 0, config hash `0123456789ab`, commit `ffffffffffff` with changes, 2 x gpu: NVIDIA H200, \
1.23 h of training
  - `train.py --workdir=runs/toy_s0`
  - `dense-aspp evaluate --flip`
- `toy_s1`: seed 1, config hash `0123456789ab`, commit `ffffffffffff` with changes, 2 x gpu: NVIDIA H200, \
1.23 h of training
  - `train.py --workdir=runs/toy_s1`
"""
DOCUMENT = f"""\
# Results

Made by `dense-aspp results`; do not edit. In %, mean ± sample standard deviation over the seeds.

## folder:toy

{MAIN}
### IoU of each class

| run | scored | road | sky\\|cloud |
| --- | --- | --- | --- |
| toy | validation split | 62.00 ± 2.83 | - |
| toy_s0 | validation split, EMA weights, flip, best checkpoint | 70.00 | - |

### Protocol

| run | scored | weights | trained on | input | classes | void | pixels counted in | averaging | \
batch normalization | checkpoint | config hash |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| toy | validation split, 5 images | raw | 16 images (train) | 64x128 | 2 (two) | ignored | {ONE_MATRIX} | \
single scale | running statistics | last | `0123456789ab` |
| toy_s0 | validation split, 5 images | EMA | 16 images (train) | 64x128 | 2 (two) | ignored | \
{ONE_MATRIX} | flip | running statistics | best on the validation split | `0123456789ab` |
"""


def test_the_document_of_a_small_example():
  assert unpadded(markdown(toy_results())) == DOCUMENT


def test_runs_that_were_scored_on_the_training_split_too_are_compared_as_the_slides_do():
  design = Design([3, 6], 64, 0, 2_252_820, 60.0)
  train = dataclasses.replace(TOY, split='train')
  rows = [toy_row(0, 0.5, design=design), toy_row(0, 0.7, train, design=design)]
  alone = dataclasses.replace(design, dilation_rates=[])
  rows += [toy_row(0, 0.4, p, run='b', config_hash='b', design=alone) for p in (TOY, train)]
  rows += [toy_row(0, 0.3, run='validation alone', config_hash='c', design=design)]
  document = unpadded(markdown(summarize(rows)))
  title, table = document.split('### ')[1].split('\n\n')[:2]
  assert title == "Models, with the columns of the slides' table"
  columns = (
    'model | extractor | dilations | growth | 1x1 | parameters | classes | image size | epochs | mIoU, train'
  )
  assert table.splitlines() == [
    f'| {columns} | mIoU, val |',
    f'|{" --- |" * 11}',
    '| toy_s0 | densenet121 | 3, 6 | 64 | - | 2,252,820 | 2 | 64x128 | 60 | 70.00 | 50.00 |',
    '| b | densenet121 | none | - | - | 2,252,820 | 2 | 64x128 | 60 | 40.00 | 40.00 |',
  ]


def test_the_readme_has_the_scores():
  first, *lines = unpadded(readme_block(toy_results())).splitlines()
  assert first == 'In %, mean ± sample standard deviation over the seeds:'
  table, _, _ = MAIN.partition('\n\n')
  cells = ['| data ', '| --- ', *['| folder:toy '] * 2]
  assert lines[1:] == [cell + line for cell, line in zip(cells, table.splitlines(), strict=True)]


def test_the_readme_leaves_raw_weights_out_where_their_averages_were_scored_alike():
  averaged_best = dataclasses.replace(TOY, checkpoint='best')
  rows = [
    *(toy_row(seed, 0.5, weights=weights) for seed in (0, 1) for weights in ('raw', 'ema')),
    toy_row(0, 0.4, config_hash='ba9876543210'),
    toy_row(0, 0.3, averaged_best, weights='raw'),
  ]
  lines = unpadded(readme_block(summarize(rows))).splitlines()[4:]
  found = [line.split(' | ')[5] for line in lines if line.startswith('| folder:toy')]
  assert sorted(found) == [
    'validation split',
    'validation split, EMA weights',
    'validation split, best checkpoint',
  ]


def test_the_terminal_has_them_in_columns():
  lines = text(toy_results()).splitlines()
  assert lines[0] == 'folder:toy, in %'
  scored = 'validation split, EMA weights, flip, best checkpoint'
  titles = ['run', 'parameters', 'scored', 'seeds', 'mean IoU', 'pixel accuracy', 'not comparable because']
  cells = [
    titles,
    ['toy', '1,234,567', 'validation split', '0, 1', '52.00 ± 2.83', '90.00 ± 0.00', '-'],
    ['toy_s0', '1,234,567', scored, '0', '60.00', '90.00', '-'],
  ]
  starts = [lines[1].index(title) for title in titles]
  for line, row in zip(lines[1:], cells, strict=True):
    found = [line[start:end].rstrip() for start, end in itertools.pairwise([*starts, None])]
    assert found == row


def test_a_card_has_a_column_for_each_score():
  row = toy_row(0, 0.5)
  flip = toy_row(0, 0.6, dataclasses.replace(TOY, test_time=FLIP))
  assert (
    unpadded(card_tables(summarize([row, flip]).groups))
    == """\
| scored | mean IoU | pixel accuracy | not comparable because |
| --- | --- | --- | --- |
| validation split | 50.00 | 90.00 | - |
| validation split, flip | 60.00 | 90.00 | - |

| class | validation split | validation split, flip |
| --- | --- | --- |
| road | 60.00 | 70.00 |
| sky\\|cloud | - | - |"""
  )


def test_a_card_tells_data_sets_apart():
  other = dataclasses.replace(TOY, dataset='folder:other', trained_on='folder:toy')
  lines = unpadded(card_tables(summarize([toy_row(0, 0.5), toy_row(0, 0.3, other)]).groups)).splitlines()
  assert [line.split(' | ')[:2] for line in lines[2:4]] == [
    ['| folder:other, validation split', '30.00'],
    ['| folder:toy, validation split', '50.00'],
  ]
  assert lines[5] == '| class | folder:other, validation split | folder:toy, validation split |'
  assert lines[7] == '| road | 40.00 | 60.00 |'


def test_the_protocol_shows_all_data_sets_and_what_was_mapped():
  others = [{'dataset': 'street_scenes', 'images': 512}]
  protocol = dataclasses.replace(TOY, also_trained_on=others, mapped_from='three')
  table = unpadded(markdown(summarize([toy_row(0, 0.5, protocol)]))).split('### Protocol')[1]
  assert (
    '| 16 images (train) and 512 images of street_scenes | 64x128 | 2 (two, mapped from three) |' in table
  )


def test_both_means_of_cityscapes_are_shown():
  scores = Scores({'mean_iou_19': 0.5, 'mean_iou_20': 0.525}, 0.9, {'road': 0.5})
  other = Scores({'mean_iou_19': 0.5, 'mean_iou_20': None}, 0.9, {'road': 0.5})
  protocol = dataclasses.replace(TOY, dataset='cityscapes')
  rows = [
    toy_row(0, 0, protocol, scores=scores),
    toy_row(0, 0, protocol, scores=other, config_hash='ba9876543210'),
  ]
  header, _, first, second = unpadded(readme_block(summarize(rows))).splitlines()[2:6]
  assert '| mean IoU, 19 classes | mean IoU, 20 classes |' in header
  assert '| 50.00 | 52.50 | 50.00 |' in first  # the last one: per seed
  assert '| 50.00 | - | 50.00 |' in second


def test_what_is_not_known_of_a_run_is_said():
  row = toy_row(0, 0.5, git_commits=[None, 'a' * 40], hours=None, devices=['cpu', '8 x gpu'])
  line = next(line for line in markdown(summarize([row])).splitlines() if line.startswith('- `toy_s0`'))
  assert line == (
    '- `toy_s0`: seed 0, config hash `0123456789ab`, commit unknown, `aaaaaaaaaaaa`, cpu; 8 x gpu, hours '
    'unknown'
  )


@pytest.mark.parametrize(
  ('changes', 'weights', 'words'),
  [
    ({}, 'raw', 'test split'),
    ({'bn': 'batch', 'bn_batch_size': 4}, 'raw', 'test split, test-time batch statistics of 4'),
    ({'bn': 'recalibrated'}, 'ema', 'test split, EMA weights, statistics re-estimated after training'),
    ({'checkpoint': 'step 7'}, 'raw', 'test split, step 7 checkpoint'),
  ],
)
def test_what_is_out_of_the_ordinary_is_named(changes, weights, words):
  protocol = dataclasses.replace(STANDARDS['camvid'], **changes)
  assert scored_words(toy_row(0, 0.5, protocol, weights=weights)) == words


def test_published_scores_come_as_published_with_what_they_differ_in(tmp_path):
  rows = read_run(make_run(tmp_path / 'camvid_s0', 0.5, config=make_config()))
  lines = unpadded(markdown(summarize(rows))).splitlines()
  title = lines.index('## As published, not reproduced here')
  published = '\n'.join(lines[title:])
  for row in (
    '| PIDNet-S | 80.1 | - | - | Cityscapes | 468 images (train + validation) | 720x960 | test split | '
    '720x960; trained on 468 images (train + validation); pretrained on Cityscapes | read | '
    'XuJiacong/PIDNet:README.md, trainval.lst |',
    '| FBSNet | 68.9 | - | 0.62 M | none | 468 images (train + validation) | 360x480 | test split | '
    'trained on 468 images (train + validation) | read | IVIPLab/FBSNet:README.md (parameters from memory) |',
    '| DenseASPP-121 (TensorFlow) | 58 | - | - | none | 367 images (train) | 360x480 | test split |  | read ',
    '*from memory*: not confirmed: check before quoting.',
    '| ENet (davidtvs) | 68.6 | 63.6 | 90.2 | 65.1 | 19.3 | 91.5 | 27.2 | 16.7 | 22.6 | 73.2 | 35.0 |',
  ):
    assert row in published
  assert not any('ENet' in line for line in lines[:title])
  assert lines[title - 2] == (
    'Standard protocol of camvid: test split (233 images), trained on 367 images (train), 360x480, 11 '
    f'classes, void ignored, {ONE_MATRIX}, single scale, running statistics, last checkpoint, no '
    'segmentation data besides.'
  )


README = '# Name\n<!-- results: begin -->\nold\n\n<!-- results: end -->\n\nMore.\n'


def test_the_block_of_a_readme_is_replaced_and_nothing_else():
  once = replace_block(README, 'new\n\ntable\n', 'README.md')
  assert once == '# Name\n<!-- results: begin -->\n\nnew\n\ntable\n\n<!-- results: end -->\n\nMore.\n'
  assert replace_block(once, 'new\n\ntable\n', 'README.md') == once


@pytest.mark.parametrize(
  'broken',
  [
    '# Name\n',
    README.replace('end -->', 'END -->'),
    README + README,
    '<!-- results: end -->\n<!-- results: begin -->\n',
  ],
)
def test_a_readme_without_one_place_for_the_block_is_refused(broken):
  with pytest.raises(InputError, match=r'README\.md: .*<!-- results: begin -->'):
    replace_block(broken, 'x', 'README.md')
