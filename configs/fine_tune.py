r"""From the packaged network `streets` to your own classes, with a few labelled images, on a CPU.

  dense-aspp train --config=configs/fine_tune.py --workdir=runs/mine --config.init.run=streets \
    --config.data.dataset=folder:my_scenes --config.model.num_classes=3

docs/own_data.md says how the folder is made.
"""

from configs import pretrained_streets


def get_config():
  config = pretrained_streets.get_config()
  config.data.dataset = 'folder:my_scenes'
  config.data.shares = ()
  config.data.class_map = ()
  config.data.label_set = None  # of the folder's labels.json
  config.data.on_device = True
  config.optimizer.learning_rate = 5e-4
  config.optimizer.warmup_steps = 20
  config.training.batch_size = 4
  config.training.num_epochs = 50.0
  config.training.ema_decay = 0.0
  config.evaluation.every_epochs = 25.0
  config.checkpoint.every_epochs = 25.0
  return config
