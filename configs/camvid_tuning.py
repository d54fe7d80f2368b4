r"""configs/camvid.py for every choice: drive 0006R0 is held out of training and scored.

  python train.py --config=configs/camvid_tuning.py --workdir=runs/tuning

Trains on 266 images of three drives and scores 101 of 0006R0. Validation and test splits are not used.
"""

from configs import camvid


def get_config():
  config = camvid.get_config()
  config.data.held_out = ('0006R0',)
  config.data.validation_split = 'held_out'
  return config
