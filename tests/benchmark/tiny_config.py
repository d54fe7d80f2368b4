"""A configuration whose steps compile in seconds, for eight devices."""

from configs import default


def make_config(**overrides):
  config = default.get_config()
  with config.unlocked():
    config.model.update(
      extractor='densenet_tiny',
      dilation_rates=(1,),
      growth_rate=4,
      bottleneck_width=8,
      compute_dtype='float32',
    )
  config.data.image_size = (32, 64)
  config.update_from_flattened_dict(overrides)
  return config
