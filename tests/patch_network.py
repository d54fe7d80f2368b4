"""A network that is compiled in no time, with a real DenseASPP and head, and images for it."""

from typing import ClassVar

import flax.linen as nn
import numpy as np

from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.models.layers import Features
from dense_aspp_jax.models.segmentation import SegmentationModel

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PatchExtractor(nn.Module):
  """Features of patches of 8x8 pixels, positive and negative; notes each time that it is traced."""

  num_channels: int = 6
  stride: ClassVar[int] = 8
  traces: ClassVar[list[tuple[int, ...]]] = []  # shapes of images, of all copies that flax makes of it

  @nn.compact
  def __call__(self, image, train=False):
    self.traces.append(image.shape)
    x = nn.Conv(self.num_channels, (8, 8), strides=(8, 8), padding='VALID', name='conv')(image)
    return Features(x, None, x)


def patch_model(dense_aspp, num_classes):
  return SegmentationModel(extractor=PatchExtractor(), dense_aspp=dense_aspp, num_classes=num_classes)


def make_split(sizes, num_ids, label_scale=(2, 2)):
  """Random images of these sizes; labels in blocks of 5x5 pixels, ids below `num_ids`."""
  rng = np.random.default_rng(0)
  split = []
  for index, size in enumerate(sizes):
    height, width = (scale * n for scale, n in zip(label_scale, size, strict=True))
    blocks = rng.integers(0, num_ids, (-(-height // 5), -(-width // 5)))
    label = blocks.repeat(5, 0).repeat(5, 1)[:height, :width].astype(np.uint8)
    image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    split.append(CachedExample(f'town/{index}', image, label))
  return split
