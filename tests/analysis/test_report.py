import base64
import io
import json
import re

import numpy as np
import pytest
import report_example
from html_page import Page
from PIL import Image
from report_example import METRICS, report

from dense_aspp_jax.analysis.report import read_analysis, read_metrics
from dense_aspp_jax.analysis.report_pictures import plot
from dense_aspp_jax.analysis.report_plots import confusion_figure, iou_figure
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.metrics import ConfusionMatrix, class_counts
from dense_aspp_jax.label_sets import CITYSCAPES_19, CITYSCAPES_20
from dense_aspp_jax.labels import LabelClass, LabelSet

THREE_NAMES = report_example.THREE.class_names
SUBJECT = {'checkpoint': 'best', 'step': 4, 'split': 'validation', 'layer': 'dense_aspp', 'data_dir': None}
DASH, MINUS = '\u2013', '\u2212'


@pytest.fixture(scope='module')
def text():
  return report(metrics=METRICS)


@pytest.fixture(scope='module')
def page(text):
  return Page(text)


def test_the_headline_gives_the_key_figures(page):
  figures = {
    'Mean IoU': '68.73 %',
    'Pixel accuracy': '84.38 %',
    'Extractor': 'densenet_ tiny',  # may break there
    'Parameters': '1,234',
    'Steps': '5,678',
    'Images scored': '90',
  }
  for name, value in figures.items():
    assert f' {name} {value} ' in page.text
  assert 'trained on three_streets. On 90 images of the validation split' in page.text
  assert ('title', {}) in page.tags
  assert 'my run: 68.7 % mean IoU' in page.text


def test_the_headline_names_all_data_sets_and_the_one_that_is_scored():
  config = {'model': {'extractor': 'densenet_tiny'}, 'data': {'dataset': ['three_streets', 'folder:x']}}
  page = Page(report(config=config))
  expected = 'trained on three_streets and folder:x. On 90 images of the validation split of three_streets it'
  assert expected in page.text


def test_sentences_name_the_best_the_worst_the_lost_and_the_similar_classes(page):
  assert 'It does best on sky (IoU 80.0 %), worst on car (50.0 %).' in page.text
  assert (
    'car loses half of its IoU with 1 of 2 layers removed, road loses half of its IoU with 2 of 2 layers '
    'removed.' in page.text.replace(' ,', ',')
  )
  assert 'Most similar features: road and car (cosine 0.23).' in page.text


def with_iou(*iou_by_count):
  """A layer removal with these IoU of road and car, the full network's first."""
  kinds = ['none', *['top'] * (len(iou_by_count) - 1)]
  settings = [
    {
      'kind': kind,
      'removed': list(range(2, 2 - count, -1)),
      'scores': {'mean_iou': 0.5, 'pixel_accuracy': 0.5, 'iou': {'road': road, 'car': car, 'sky': None}},
    }
    for count, (kind, (road, car)) in enumerate(zip(kinds, iou_by_count, strict=True))
  ]
  return report_example.layer_removal(settings=settings)


def test_where_no_class_loses_half_the_page_says_so():
  page = Page(report(layer_removal=report_example.layer_removal(lost_first=[])))
  assert page.text.count('No class loses half of its IoU when layers of DenseASPP are removed.') == 2
  assert 'loses half of its IoU with' not in page.text


def test_the_iou_of_each_class_by_layers_removed(page):
  start = page.rows.index(['Class, IoU in %', 'none', '1', '2'])
  assert page.rows[start + 1 : start + 4] == [
    ['road', '80.0 %', '70.0 %', '39.0 %'],
    ['car', '50.0 %', '24.0 %', '30.0 %'],
    ['sky', DASH, DASH, DASH],
  ]


def test_the_first_labelled_example_is_the_hero():
  blank, first, second = (report_example.example(name) for name in ('blank', 'first', 'second'))
  blank.label[:] = 255
  page = Page(report(examples=[blank, first, second]))
  assert page.images()[0]['alt'] == 'first: the prediction overlaid on the image'
  assert 'blank , no labelled pixels Image' in page.text
  page = Page(report(examples=[blank]))
  assert 'overlaid' not in page.text


def test_the_plots_are_of_these_scores(page):
  counts = report_example.COUNTS[:3, :3]
  scores = report_example.confusion().scores()
  assert scores.mean_iou == pytest.approx((80 / 105 + 15 / 30 + 40 / 50) / 3)
  figures = (
    iou_figure(scores.iou, scores.mean_iou, report_example.THREE),
    confusion_figure(counts, THREE_NAMES),
  )
  assert {plot(figure, '').uri for figure in figures} <= {image['src'] for image in page.images()}


def test_a_converted_run_names_its_file_and_has_no_training():
  start = {'step': 0, 'converted': {'file': 'street.pth'}, **report_example.provenance()}
  page = Page(report(metrics=[], starts=[start], step=0))
  assert 'converted from street.pth.' in page.text
  for text in ('Steps', 'Training', 'metrics.jsonl', 'at step', ', step', 'trained on'):
    assert text not in page.text


def test_which_weights_statistics_and_heads_is_said():
  parameters = {'extractor': 1000, 'dense_aspp': 200, 'skip_decoder': 50, 'head': 34, 'auxiliary_head': 0}
  changes = dict(weights='ema', bn='recalibrated', parameters={**parameters, 'total': 1284, 'gmac': 0.5})
  page = Page(report(**changes))
  assert (
    'Checkpoint best, step 5,678, moving averages of the weights, recalibrated BN statistics. '
    'Extractor 1,000, DenseASPP 200, skip decoder 50, head 34 parameters.'
  ) in page.text


def test_sentences_leave_out_classes_without_ground_truth_and_void():
  counts = np.array([[6, 0, 2, 0], [2, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
  similar = [{'classes': ['road', 'sky'], 'cosine': 0.9}, {'classes': ['road', 'car'], 'cosine': 0.5}]
  page = Page(
    report(
      confusion=report_example.confusion(counts),
      similarity=report_example.similarity(most_confused=similar),
    )
  )
  assert 'It does best on road (IoU 60.0 %), worst on car (50.0 %).' in page.text  # sky has 0
  assert 'Most similar features: road and car (cosine 0.50).' in page.text
  assert 'worst on car (50.0 %)' in cityscapes_page(CITYSCAPES_20).text  # void has 0


def test_each_analysis_says_on_how_many_images_it_was(page):
  assert 'of the layer dense_aspp over 3 images.' in page.text
  assert 'Scored on 4 images. car loses half' in page.text
  assert 'Rule: by halves.' in page.text


def test_the_table_of_classes(page):
  start = page.rows.index(['Class', 'IoU', 'Recall', 'Of all pixels', 'Most often confused with'])
  assert page.rows[start + 1 : start + 4] == [
    ['sky', '80.0 %', '100.0 %', '25.0 %', DASH],
    ['road', '76.2 %', '80.0 %', '62.5 %', 'car 10.0 %'],
    ['car', '50.0 %', '75.0 %', '12.5 %', 'road 25.0 %'],
  ]


def test_the_table_of_removed_layers(page):
  start = page.rows.index(
    ['Removed layers', 'Their dilation', 'Mean IoU', 'Change, points', 'Pixel accuracy']
  )
  assert page.rows[start + 1 : start + 9] == [
    ['The whole network'],
    ['none', DASH, '68.7 %', DASH, '84.0 %'],
    ['Without the top layers'],
    ['2', '6', '50.0 %', f'{MINUS}18.7', '80.0 %'],
    ['1, 2', '3, 6', '40.0 %', f'{MINUS}28.7', '70.0 %'],
    ['Without a single layer'],
    ['1', '3', '68.7 %', '0.0', '85.0 %'],
    ['2', '6', '50.0 %', f'{MINUS}18.7', '80.0 %'],
  ]


def test_the_pairs_of_similar_classes(page):
  assert ['road and car', '0.234'] in page.rows


def test_configuration_and_provenance_are_written_out(page):
  for row in (
    ['seed', '7'],
    ['model.extractor', 'densenet_tiny'],
    ['model.dilation_rates', '[3, 6]'],
    ['data.data_dir', 'null'],
    ['libraries.jax', '9.9'],
    ['git_commit', 'abc123'],
    ['devices', '["cpu: cpu"]'],
    ['command', 'train.py --workdir=x'],
  ):
    assert row in page.rows
  for text in (
    'Started at step 0, 2026-01-02 03:04 UTC',
    'Started at step 2, 2026-02-03 04:05 UTC',
    'Checkpoint best, step 5,678. Extractor 1,000, DenseASPP 200, head 34 parameters.',
    'Written by dense_aspp_jax 1.2.3 on 2026-03-04 05:06 UTC.',
  ):
    assert text in page.text


def test_the_gallery_shows_four_panels_an_image_and_the_legend(page):
  for number in (1, 2):
    assert f'street/{number} , 53.3 % of pixels correct Image Ground truth Prediction Errors' in page.text
  assert 'Errors: wrong pixels and ignored pixels over the grey image. road car sky' in page.text
  colors = [a['style'] for tag, a in page.tags if tag == 'span' and a.get('class') == 'swatch']
  road, car, sky = '--color: 128 64 128', '--color: 0 0 142', '--color: 70 130 180'
  assert colors[2:] == [road, car, sky, sky, road, car]  # the legend, and the table by IoU


def test_ignored_pixels_are_mentioned_only_where_there_are_some():
  example = report_example.example()
  example.label[:, -1] = 0
  page = Page(report(examples=[example]))
  assert 'Errors: wrong pixels over the grey image.' in page.text
  assert 'ignored' not in page.text


def test_every_picture_is_inside_the_page_with_a_text_and_its_size(page):
  images = page.images()
  # Gallery 8, one over its image, IoU, confusion, 4 curves, similarity 1 + 3, removal 1 + 1.
  assert len(images) == 8 + 1 + 2 + 4 + 4 + 2
  assert ['loading' in image for image in images] == [False] + [True] * (len(images) - 1)
  for image in images:
    assert image['alt'].strip()
    media_type, data = re.fullmatch(r'data:(image/[a-z+]+);base64,(.+)', image['src']).groups()
    data = base64.b64decode(data, validate=True)
    if media_type == 'image/svg+xml':
      assert data.startswith(b'<?xml')
      continue
    with Image.open(io.BytesIO(data)) as picture:
      assert picture.get_format_mimetype() == media_type
      assert picture.size == (int(image['width']), int(image['height']))


def test_nothing_is_loaded_from_outside(text, page):
  assert '://' not in re.sub(r'base64,[^"]+', '', text)
  assert '@import' not in text
  assert 'url(' not in text
  tags = {tag for tag, _ in page.tags}
  assert not tags & {'script', 'link', 'iframe', 'object', 'embed', 'video', 'form'}
  targets = [a['href'] for tag, a in page.tags if tag == 'a']
  ids = {f'#{a["id"]}' for _, a in page.tags if 'id' in a}
  assert set(targets) == ids == {'#results', '#classes', '#training', '#similarity', '#layers', '#run'}
  policy = next(a['content'] for tag, a in page.tags if a.get('http-equiv') == 'Content-Security-Policy')
  assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_the_same_content_gives_the_same_page(text):
  assert report(metrics=METRICS) == text


def test_odd_names_and_values_are_text_not_markup():
  odd = '<b title="x">&amp;\'</b> $x^$'
  label_set = LabelSet('odd', (LabelClass(odd, (0,), (1, 2, 3)), LabelClass('b', (1,), (4, 5, 6))))
  removal = with_iou((0.5, 0.5), (0.1, 0.1))
  for setting in removal.data['settings']:
    setting['scores']['iou'][odd] = setting['scores']['iou']['car']
  removal.data.update(lost_first=[{'class': odd, 'layers_removed': 1, 'kept': 0.2}], lost_first_rule=odd)
  confused = [{'classes': [odd, 'b'], 'cosine': 0.5}]
  text = report(
    workdir=odd,
    config={'model': {'extractor': odd}, 'data': {'dataset': '<script>alert(1)</script>', odd: odd}},
    confusion=report_example.confusion(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]), label_set),
    examples=[report_example.example(image_id=odd)],
    similarity=report_example.similarity(most_confused=confused),
    layer_removal=removal,
  )
  page = Page(text)
  assert not {'script', 'b'} & {tag for tag, _ in page.tags}
  assert {image['alt'].split(': ')[0] for image in page.images()} >= {odd}
  assert [f'data.{odd}', odd] in page.rows
  assert ['data.dataset', '<script>alert(1)</script>'] in page.rows
  assert f'{odd} loses half of its IoU with 1 of 2' in page.text
  assert f'{odd} and b' in page.text


def test_a_run_without_logged_metrics_has_no_curves():
  page = Page(report(metrics=[]))
  assert 'This run has no metrics.jsonl, so there are no curves to show.' in page.text
  assert not [image for image in page.images() if 'by step' in image['alt']]


def test_curves_say_where_they_begin_and_end(page):
  texts = [image['alt'] for image in page.images() if 'by step' in image['alt']]
  assert texts == [
    'Loss by step: 2.5 at step 1, 1.5 at step 2',
    'Mean IoU on the validation split by step: 0.6 at step 2',
    'Pixel accuracy by step: 0.25 at step 1, 0.5 at step 2',
    'Learning rate by step: 0.01 at step 1, 0.005 at step 2',
  ]


def test_a_class_without_pixels_is_neither_best_nor_worst():
  counts = np.zeros((4, 4), np.int64)
  counts[0, 0], counts[1, 1], counts[1, 0] = 6, 2, 2
  page = Page(report(confusion=report_example.confusion(counts)))
  assert 'It does best on road (IoU 75.0 %), worst on car (50.0 %).' in page.text
  assert ['sky', DASH, DASH, '0.0 %', DASH] in page.rows


def test_analyses_that_found_nothing_make_no_sentence():
  text = report(
    similarity=report_example.similarity(most_confused=[], pictures=[]),
    layer_removal=report_example.layer_removal(lost_first=[], pictures=[]),
  )
  page = Page(text)
  for text in ('IoU with', 'Most similar features'):
    assert text not in page.text
  assert not re.search(r'\d more', page.text)


def test_pictures_beyond_two_are_folded(page):
  assert '1 more picture ' in page.text
  assert '2 more' not in page.text


def test_a_split_without_a_scored_pixel_is_refused():
  confusion = report_example.confusion(np.zeros((4, 4), np.int64))
  with pytest.raises(InputError, match='nothing can be scored'):
    report(confusion=confusion)


@pytest.mark.parametrize('label_set', [CITYSCAPES_20, CITYSCAPES_19])
def test_cityscapes_counts_over_label_ids_become_counts_over_classes(label_set):
  counts = np.random.default_rng(0).integers(0, 100, (34, 34))
  expected = np.zeros((label_set.num_classes,) * 2, np.int64)
  for row, column in np.ndindex(34, 34):
    of_class = [i for i, c in enumerate(label_set.classes) if row in c.ids]
    as_class = [i for i, c in enumerate(label_set.classes) if column in c.ids]
    if of_class and as_class:
      expected[of_class[0], as_class[0]] += counts[row, column]
  np.testing.assert_array_equal(class_counts(counts, label_set), expected)


def test_counts_of_other_label_sets_leave_out_what_is_ignored():
  counts = class_counts(report_example.COUNTS, report_example.THREE)
  np.testing.assert_array_equal(counts, report_example.COUNTS[:3, :3])


def cityscapes_page(label_set):
  confusion = ConfusionMatrix(label_set)
  confusion.counts[7, 7] = 90  # road
  confusion.counts[26, [7, 26]] = 10  # car
  confusion.counts[0, 7] = 25  # void
  scores = [{'kind': 'none', 'removed': [], 'scores': {'mean_iou_19': 0.5, 'pixel_accuracy': 0.5, 'iou': {}}}]
  removal = report_example.layer_removal(settings=scores, lost_first=[])
  example = report_example.example()
  return Page(report(confusion=confusion, examples=[example], layer_removal=removal))


def test_cityscapes_with_void_has_both_means():
  page = cityscapes_page(CITYSCAPES_20)
  assert 'Mean IoU, 19 classes 70.00 %' in page.text  # (90 / 100 + 10 / 20) / 2
  assert 'Mean IoU, with void 40.67 %' in page.text  # (90 / 125 + 10 / 20 + 0) / 3
  assert ['void', '0.0 %', '0.0 %', '18.5 %', 'road 100.0 %'] in page.rows


def test_cityscapes_without_void_has_one_mean():
  page = cityscapes_page(CITYSCAPES_19)
  assert 'Mean IoU, 19 classes 70.00 %' in page.text
  assert 'with void' not in page.text
  assert ['road', '90.0 %', '100.0 %', '81.8 %', DASH] in page.rows


def store(folder, **changes):
  folder.mkdir(exist_ok=True)
  data = {**SUBJECT, 'matrix_picture': 'm.png', 'pictures': ['a.png'], **changes}
  (folder / f'{folder.name}.json').write_text(json.dumps(data))
  (folder / 'm.png').write_bytes(b'matrix')
  (folder / 'a.png').write_bytes(b'picture')
  return data


def test_a_stored_analysis_is_read_with_its_pictures(tmp_path):
  data = store(tmp_path / 'similarity')
  analysis = read_analysis(tmp_path / 'similarity', SUBJECT)
  assert analysis.data == data
  assert analysis.pictures == {'m.png': b'matrix', 'a.png': b'picture'}


@pytest.mark.parametrize(
  'change',
  [{'step': 5}, {'checkpoint': 'latest'}, {'split': 'train'}, {'layer': 'layer1'}, {'data_dir': 'moved'}],
)
def test_an_analysis_of_something_else_is_not_taken(tmp_path, change):
  store(tmp_path / 'similarity', **change)
  assert read_analysis(tmp_path / 'similarity', SUBJECT) is None


def test_an_analysis_that_is_missing_or_lacks_a_picture_is_not_taken(tmp_path):
  assert read_analysis(tmp_path / 'similarity', SUBJECT) is None
  store(tmp_path / 'similarity')
  (tmp_path / 'similarity' / 'a.png').unlink()
  assert read_analysis(tmp_path / 'similarity', SUBJECT) is None


@pytest.mark.parametrize('content', ['[]', '7', '{"step": 4, "pictures": 3}'])
def test_an_analysis_that_was_edited_is_named(tmp_path, content):
  (tmp_path / 'similarity').mkdir()
  path = tmp_path / 'similarity' / 'similarity.json'
  path.write_text(content)
  with pytest.raises(InputError, match=rf'^{path}: not what an analysis writes.*remove it'):
    read_analysis(tmp_path / 'similarity', {'step': 4})


def test_a_line_that_a_killed_run_cut_off_is_left_out(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1, "kind": "train"}\n7\n{"step": "x"}\n{"step": 2, "kind": "train"}\n{"st')
  assert read_metrics(path) == [{'step': 1, 'kind': 'train'}, {'step': 2, 'kind': 'train'}]
  assert read_metrics(tmp_path / 'missing.jsonl') == []


def test_what_the_training_split_cannot_teach_is_said_first():
  start = {
    'step': 0,
    **report_example.provenance(),
    'warnings': ['no training pixel is of class <car>, never learned'],
  }
  page = Page(report(metrics=[], starts=[{'step': 0, **report_example.provenance()}, start]))
  assert 'Warning: no training pixel is of class <car>, never learned.' in page.text
  assert (
    'Warning:'
    not in Page(report(metrics=[], starts=[start, {'step': 2, **report_example.provenance()}])).text
  )
