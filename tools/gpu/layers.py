"""Dense layers of the slides' model #4, to compile and time their operations alone."""

from __future__ import annotations

from dense_aspp_jax.models.fused.kernel_calls import Layer

# The last of each block, for 8 images of 512x1024, and one for 360x480, whose feature maps the dilation does
# not divide.
LAYERS = {
  'denseblock1': Layer((8, 128, 256), 256, 224, 128, 32),
  'denseblock2': Layer((8, 64, 128), 512, 480, 128, 32),
  'denseblock3': Layer((32, 32, 64), 1024, 992, 128, 32),
  'denseblock4': Layer((128, 16, 32), 1024, 992, 128, 32),
  'denseblock3, 360x480': Layer((32, 23, 30), 1024, 992, 128, 32, masked=True),
  'aspp': Layer((8, 64, 128), 1344, 1280, 256, 64, dilation=24),
}
