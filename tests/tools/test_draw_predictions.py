import numpy as np
import pytest
from PIL import Image

from dense_aspp_jax.datasets.resize import resize_label
from dense_aspp_jax.evaluation.pictures import colorize
from dense_aspp_jax.training.run import load_model
from tools import draw_predictions as tool


def test_each_image_has_a_row_with_truth_and_prediction(tiny_run, scene_folder, tmp_path):
  run = load_model(tiny_run)
  split = run.load_split('validation', dataset=f'folder:{scene_folder}')
  picture = tool.picture(run, split, ['3', '1'])
  height, width = 32, 64  # of what the network sees
  caption = 15
  examples = {example.image_id: example for example in split}
  for row, name in enumerate(('3', '1')):
    top = caption + row * (caption + height + 4)
    image, truth, prediction = (
      picture[top : top + height, left : left + width] for left in (0, width + 4, 2 * (width + 4))
    )
    np.testing.assert_array_equal(image, examples[name].image)
    label = split.label_set.encode(examples[name].label, name)
    expected = resize_label(label, (height, width)), run.predict(examples[name].image)
    for panel, classes in zip((truth, prediction), expected, strict=True):
      np.testing.assert_array_equal(panel, colorize(classes, run.label_set))
  options = ['--model', str(tiny_run), '--dataset', f'folder:{scene_folder}']
  assert tool.main([*options, '--images', '3', '1', '--output', str(tmp_path / 'p.jpg')]) == 0
  with Image.open(tmp_path / 'p.jpg') as written:
    assert written.size == picture.shape[1::-1]
  with pytest.raises(tool.InputError, match='--images 7: not in the split'):
    tool.picture(run, split, ['3', '7'])
