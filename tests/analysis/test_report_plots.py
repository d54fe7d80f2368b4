import base64

import numpy as np
from matplotlib.colors import to_rgb
from report_example import COUNTS, METRICS, THREE

from dense_aspp_jax.analysis.report_pictures import plot
from dense_aspp_jax.analysis.report_plots import (
  confusion_figure,
  iou_figure,
  row_shares,
  sorted_iou,
  training_figures,
)


def data_of(axes):
  return [line.get_xydata().tolist() for line in axes.lines]


def test_curves_are_the_logged_values():
  figures = training_figures(METRICS)
  assert {title: data_of(figure.axes[0]) for title, figure in figures.items()} == {
    'Loss': [[[1, 2.5], [2, 1.5]]],
    'Mean IoU on the validation split': [[[2, 0.6]]],
    'Pixel accuracy': [[[1, 0.25], [2, 0.5]], [[2, 0.75]]],
    'Learning rate': [[[1, 0.01], [2, 0.005]]],
  }


def test_curves_begin_at_zero_and_show_the_last_step():
  for figure in training_figures(METRICS).values():
    axes = figure.axes[0]
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert (left, bottom) == (0, 0)
    assert 2 < right < 2.2
    assert top > max(value for line in data_of(axes) for _, value in line)


def test_many_noisy_values_are_drawn_with_their_running_mean():
  losses = np.random.default_rng(0).random(180)
  lines = [
    {'step': 10 * i, 'kind': 'train', 'loss': loss, 'learning_rate': loss} for i, loss in enumerate(losses)
  ]
  figures = training_figures(lines)
  raw, mean = data_of(figures['Loss'].axes[0])
  assert raw == [[10 * i, loss] for i, loss in enumerate(losses)]
  expected = [[10 * i, losses[i - 1 : i + 2].mean()] for i in range(1, 179)]
  np.testing.assert_allclose(mean, expected)
  assert len(data_of(figures['Learning rate'].axes[0])) == 1  # it has no noise


def test_each_mean_iou_has_a_line_that_says_which_it_is():
  lines = [{'step': 4, 'kind': 'validation', 'mean_iou_19': 0.5, 'mean_iou_20': 0.25}]
  (axes,) = training_figures(lines)['Mean IoU on the validation split'].axes
  assert data_of(axes) == [[[4, 0.5]], [[4, 0.25]]]
  labels = [text.get_text() for text in axes.get_legend().get_texts()]
  assert labels == ['Mean IoU, 19 classes', 'Mean IoU, with void']


def test_the_averaged_weights_have_a_line_of_the_ranking_mean():
  scores = {'step': 4, 'mean_iou_19': 0.5, 'mean_iou_20': 0.25}
  lines = [{'kind': 'validation', **scores}, {'kind': 'validation_ema', **scores, 'mean_iou_19': 0.75}]
  (axes,) = training_figures(lines)['Mean IoU on the validation split'].axes
  assert data_of(axes) == [[[4, 0.5]], [[4, 0.25]], [[4, 0.75]]]
  assert axes.get_legend().get_texts()[2].get_text() == 'Mean IoU, 19 classes, averaged weights'


def test_values_that_are_null_are_left_out():
  lines = [{'step': 4, 'kind': 'validation', 'mean_iou_19': 0.5, 'mean_iou_20': None}]
  (axes,) = training_figures(lines)['Mean IoU on the validation split'].axes
  assert data_of(axes) == [[[4, 0.5]]]


def test_values_of_0_and_nan_are_drawn_without_a_warning():
  lines = [{'step': 0, 'kind': 'train', 'loss': float('nan'), 'pixel_accuracy': 0.0}]
  figures = training_figures(lines)
  assert list(figures) == ['Pixel accuracy']
  assert figures['Pixel accuracy'].axes[0].get_ylim() == (0, 1)


def test_nothing_logged_gives_no_figure():
  assert training_figures([]) == {}


def test_bars_are_the_iou_best_first_in_the_colours_of_the_classes():
  (axes,) = iou_figure({'road': 0.25, 'car': None, 'sky': 0.75}, 0.5, THREE).axes
  assert [bar.get_width() for bar in axes.patches] == [75, 25]
  assert [label.get_text() for label in axes.get_yticklabels()] == ['sky', 'road']
  assert [bar.get_facecolor()[:3] for bar in axes.patches] == [
    to_rgb(np.array(color) / 255) for color in ((70, 130, 180), (128, 64, 128))
  ]
  assert axes.yaxis_inverted()  # the first is on top
  assert axes.lines[0].get_xdata() == [50, 50]
  assert {'75.0', '25.0', 'mean 50.0'} <= {text.get_text().strip() for text in axes.texts}


def test_classes_of_equal_iou_keep_their_order():
  assert sorted_iou({'a': 0.1, 'b': 0.5, 'c': None, 'd': 0.5}) == [('b', 0.5), ('d', 0.5), ('a', 0.1)]


def test_the_confusion_matrix_shows_the_share_of_each_row():
  (axes,) = confusion_figure(COUNTS[:3, :3], ('road', 'car', 'sky')).axes
  expected = [[80, 10, 10], [25, 75, 0], [0, 0, 100]]
  np.testing.assert_allclose(axes.images[0].get_array(), expected)
  written = {text.get_position()[::-1]: text.get_text() for text in axes.texts if text.get_text()}
  assert written == {
    (row, column): str(expected[row][column]) for row, column in zip(*np.nonzero(expected), strict=True)
  }
  assert [label.get_text() for label in axes.get_yticklabels()] == ['road', 'car', 'sky']
  assert [label.get_text() for label in axes.get_xticklabels()] == ['road', 'car', 'sky']


def test_a_row_without_pixels_is_empty():
  assert row_shares(np.array([[0, 0], [1, 3]])).tolist() == [[0, 0], [0.25, 0.75]]


def test_shares_that_would_be_written_as_0_are_left_out():
  (axes,) = confusion_figure(np.array([[996, 4], [5, 995]]), ('a', 'b')).axes
  assert [text.get_text() for text in axes.texts] == ['100', '', '0', '100']


def test_a_matrix_of_very_many_classes_has_no_numbers_and_stays_small_enough_to_draw():
  figure = confusion_figure(np.eye(150, dtype=np.int64), [str(i) for i in range(150)])
  assert not figure.axes[0].texts
  assert max(figure.get_size_inches()) < 30


def test_dollars_in_names_are_letters():
  figure = confusion_figure(np.eye(2, dtype=np.int64), ('$\\frac$', 'a$b$'))
  plot(figure, '')  # the first is no formula: it would be refused here
  (axes,) = figure.axes
  for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
    assert [label.get_text() for label in labels] == [r'\$\frac\$', r'a\$b\$']


def test_the_same_figure_gives_the_same_svg():
  first, second = (plot(iou_figure({'road': 0.25}, 0.25, THREE), '').uri for _ in range(2))
  assert first == second
  svg = base64.b64decode(first.removeprefix('data:image/svg+xml;base64,'), validate=True)
  assert b'<text' not in svg  # letters are drawn: no font is looked for
