"""Trains a network: `python train.py --config=configs/street_scenes.py --workdir=runs/street_scenes`."""

import sys

from dense_aspp_jax.__main__ import main

if __name__ == '__main__':
  sys.exit(main(['train', *sys.argv[1:]]))
