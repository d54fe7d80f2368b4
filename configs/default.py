r"""The slides' best model (#4) on Cityscapes. Lists every field once, with unit and source.

  dense-aspp prepare cityscapes --source DIRECTORY_OF_THE_TWO_ZIPS
  python train.py --config=configs/default.py --workdir=runs/cityscapes

Cost: 22,312 steps of 8 images at 512x1024; a GPU with at least 12 GiB (not measured yet).
The slides report 54.0 % mean IoU on validation and 73.5 % on training images over 20 classes
(published, not reproduced yet), from ImageNet weights: dense-aspp convert --architecture densenet121
--download --output weights/densenet121, then --config.init.extractor_weights=weights/densenet121.
"ours" marks what the slides do not specify.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  """The slides' best model; a variant starts from this and changes what differs."""
  config = ml_collections.ConfigDict()
  config.seed = 0  # of the data order, augmentation and initial parameters

  config.model = ml_collections.ConfigDict()
  config.model.extractor = 'densenet121'  # a key of models.extractors.EXTRACTORS
  config.model.output_stride = 8  # input pixels per feature pixel: 8, 16 or 32
  config.model.last_layer = config_dict.placeholder(str)  # of the extractor: 'transition3' (slides, #1), ...
  config.model.fourth_transition = False  # halve the channels before DenseNet's last BN (paper's code)
  config.model.dilation_rates = (3, 6, 12, 18, 24)  # one atrous layer each; (): none, for comparison
  config.model.growth_rate = 64  # channels each atrous layer adds
  config.model.bottleneck_width = 256  # channels of its 1x1 convolution; 0: none (#1 to #3)
  config.model.first_norm = True  # BN before the first atrous layer (not in #5)
  config.model.final_norm = False  # BN after the last concatenation (#5)
  config.model.use_bias = False  # biases in the atrous layers (paper's code)
  config.model.rectify_features = False  # ReLU on the features that are concatenated (paper's code)
  config.model.dropout_rate = 0.0  # of channels, in DenseASPP and before the head (paper: 0.1)
  config.model.skip_head = False  # stride-4 features concatenated before the head, for thin objects; ours
  config.model.auxiliary_head = False  # second logits from dense block 3, only for the training loss; ours
  config.model.num_classes = 20  # as in the label set
  config.model.compute_dtype = 'bfloat16'  # or 'float32'; ours. Parameters, BN statistics, loss: float32
  config.model.implementation = 'fused'  # or 'reference': layer by layer as defined, slower, for comparison;
  # on an NVIDIA GPU 'fused_mosaic', 'fused_triton' and 'fused_xla' force a form of the kernels.
  config.model.rematerialize = False  # recompute blocks in the backward pass: less memory, more time

  config.init = ml_collections.ConfigDict()
  config.init.extractor_weights = config_dict.placeholder(str)  # of `dense-aspp convert`; default: random
  config.init.run = config_dict.placeholder(str)  # another run or a model file, to start from its weights

  config.data = ml_collections.ConfigDict()
  # 'camvid', 'street_scenes', ..., 'folder:PATH'; or several to train on, the first of which is scored
  config.data.dataset = config_dict.FieldReference('cityscapes', field_type=object)
  config.data.shares = ()  # of several data sets: images of each in a batch, such as (2, 6)
  config.data.class_map = ()  # (class of a data set, class of the run or 'ignore'), ...; see docs/training.md
  config.data.data_dir = config_dict.placeholder(str)  # default: TFDS_DATA_DIR or ~/tensorflow_datasets
  config.data.cache_dir = config_dict.placeholder(str)  # of resized images; default: data_dir/cache
  config.data.label_set = config_dict.placeholder(str)  # 'cityscapes19' or a labels.json; default: its own
  config.data.train_split = 'train'  # or 'train+validation'
  config.data.validation_split = 'validation'  # or 'held_out', see below
  config.data.held_out = ()  # prefixes of image ids: these images of 'train' are 'held_out' instead
  config.data.image_size = (512, 1024)  # height, width of the network's input; slides
  config.data.keep_aspect = True  # in evaluation, do not stretch images of another aspect ratio
  config.data.mean = (0.485, 0.456, 0.406)  # of RGB in 0..1; slides
  config.data.std = (0.229, 0.224, 0.225)
  config.data.on_device = False  # keep the training split in device memory
  config.data.num_workers = 0  # reading processes; 0: threads of this one
  config.data.skip_bad = 0  # bad pairs of the training split that may be left out, with a warning

  config.augmentation = ml_collections.ConfigDict()  # by default all off: the slides' recipe
  config.augmentation.scale_range = (1.0, 1.0)  # factor drawn uniformly
  config.augmentation.crop_size = config_dict.placeholder(tuple)  # (height, width); default: none
  config.augmentation.flip_probability = 0.0  # left-right
  config.augmentation.rotation = 0.0  # degrees, in [-x, x]
  config.augmentation.brightness = 0.0  # factor in [1 - x, 1 + x], as torchvision's ColorJitter
  config.augmentation.contrast = 0.0  # likewise
  config.augmentation.saturation = 0.0  # likewise
  config.augmentation.hue = 0.0  # shift in [-x, x] of the colour circle, x <= 0.5
  config.augmentation.gamma = 0.0  # exponent exp(u), u in [-x, x]
  config.augmentation.white_balance = 0.0  # factor of each channel in [1 - x, 1 + x]; grey stays as bright
  config.augmentation.grayscale_probability = 0.0  # of losing all colour
  config.augmentation.blur = 0.0  # standard deviation in [0, x] pixels of the network's input
  config.augmentation.noise = 0.0  # standard deviation in [0, x] of colours 0..1

  config.loss = ml_collections.ConfigDict()  # cross entropy; ours
  config.loss.class_weighting = 'none'  # 'enet', 'median_frequency': weights from the training split's labels
  config.loss.class_weights = ()  # explicit weights, one per class; (): all 1
  config.loss.ignore_label = 255  # class index that the loss ignores; 255 is always ignored
  config.loss.ohem_threshold = 0.0  # count only pixels of lower probability, such as 0.7; 0: count all
  config.loss.ohem_min_kept = 0.0625  # share of the pixels that always count, the hardest
  config.loss.region = 'none'  # or 'dice', 'lovasz', added to the cross entropy
  config.loss.region_weight = 1.0
  config.loss.auxiliary_weight = 0.4  # of the cross entropy of model.auxiliary_head

  config.optimizer = ml_collections.ConfigDict()
  config.optimizer.name = 'adam'  # L2 decay inside the gradient (slides); 'adamw', 'sgd'
  config.optimizer.learning_rate = 3e-4  # slides
  config.optimizer.weight_decay = 1e-5  # slides
  config.optimizer.decay_norms_and_biases = True  # False: weight decay of kernels only
  config.optimizer.clip_norm = 0.0  # maximum norm of the whole gradient; 0: no clipping
  config.optimizer.momentum = 0.9  # only of 'sgd'
  config.optimizer.schedule = 'constant'  # ours; 'poly', 'cosine'
  config.optimizer.poly_power = 0.9
  config.optimizer.warmup_steps = 0  # steps of linear growth of the rate from 0
  config.optimizer.extractor_learning_rate_factor = 1.0  # the extractor's share of the rate; 0: frozen; ours

  config.training = ml_collections.ConfigDict()
  config.training.num_epochs = 60.0  # passes over the training split, of all data sets; slides
  config.training.batch_size = 8  # images per update, over all devices; ours
  config.training.gradient_accumulation = 1  # parts that a batch is computed in, to save memory
  config.training.ema_decay = 0.0  # of moving averages of parameters and BN statistics, scored too; 0: none
  config.training.max_skipped_steps = 0  # non-finite updates in a row that may be skipped; 0: none
  config.training.log_every_steps = 1  # steps averaged for a line in metrics.jsonl and an event

  config.evaluation = ml_collections.ConfigDict()
  config.evaluation.every_epochs = 1.0  # passes over the training split between two evaluations
  config.evaluation.batch_size = 8  # images per call; does not affect results
  config.evaluation.num_pictures = 4  # examples drawn at each evaluation

  config.checkpoint = ml_collections.ConfigDict()
  config.checkpoint.every_epochs = 1.0  # likewise, between two checkpoints
  config.checkpoint.keep = 2  # newest checkpoints; the best by validation mIoU is kept in addition
  return config
