"""The label sets that have names, and those of labels.json files.

The slides map the 35 labels of Cityscapes to 20 classes. Void is class 19, trained and scored like the others
(derived from "35 -> 20" and the parameter counts).
"""

from __future__ import annotations

import dataclasses

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import read_json
from dense_aspp_jax.label_tables import CAMVID, CAMVID_32, CAMVID_32_TO_11, CITYSCAPES
from dense_aspp_jax.labels import IGNORE_LABEL, LabelClass, LabelSet
from dense_aspp_jax.paths import local_path


def _cityscapes_classes() -> tuple[LabelClass, ...]:
  trained = sorted((x for x in CITYSCAPES if 0 <= x.train_id < 19), key=lambda x: x.train_id)
  return tuple(LabelClass(x.name, (x.id,), x.color) for x in trained)


_CITYSCAPES_VOID = tuple(x.id for x in CITYSCAPES if x.train_id == 255)

CITYSCAPES_20 = LabelSet(
  'cityscapes20', (*_cityscapes_classes(), LabelClass('void', _CITYSCAPES_VOID, (0, 0, 0)))
)
CITYSCAPES_19 = LabelSet('cityscapes19', _cityscapes_classes(), _CITYSCAPES_VOID)
CAMVID_11 = LabelSet('camvid11', tuple(LabelClass(n, (i,), c) for i, (n, c) in enumerate(CAMVID)), (11,))
# Label maps that hold train ids, such as *_labelTrainIds.png of cityscapesScripts; -1 is stored as 255.
CITYSCAPES_19_TRAIN_IDS = LabelSet(
  'cityscapes19_train_ids',
  tuple(dataclasses.replace(c, ids=(i,)) for i, c in enumerate(CITYSCAPES_19.classes)),
  (IGNORE_LABEL,),
)
_ID = {name: i for i, (name, _) in enumerate(CAMVID_32)}
CAMVID_31 = LabelSet(  # the 32nd label, Void, is ignored
  'camvid32', tuple(LabelClass(n, (_ID[n],), c) for n, c in CAMVID_32 if n != 'Void'), (_ID['Void'],)
)
_MERGED = tuple(LabelClass(n, tuple(_ID[m] for m in CAMVID_32_TO_11[n]), c) for n, c in CAMVID)
CAMVID_32_AS_11 = LabelSet('camvid32_as_11', _MERGED, (_ID['Void'],))
_SETS = (CITYSCAPES_20, CITYSCAPES_19, CITYSCAPES_19_TRAIN_IDS, CAMVID_11, CAMVID_32_AS_11, CAMVID_31)
LABEL_SETS = {s.name: s for s in _SETS}
# Published data set -> the label sets that are made for its label ids.
LABEL_SETS_OF = {
  'cityscapes': (CITYSCAPES_20, CITYSCAPES_19),
  'cityscapes_coarse': (CITYSCAPES_20, CITYSCAPES_19),
  'street_scenes': (CITYSCAPES_20, CITYSCAPES_19),
  'street_scenes_large': (CITYSCAPES_20, CITYSCAPES_19),
  'camvid': (CAMVID_11,),
  'camvid_full': (CAMVID_32_AS_11, CAMVID_31),
}
# The first is that of a configuration that names none.
USUAL_LABEL_SETS = {name: made_for[0] for name, made_for in LABEL_SETS_OF.items()}


def load_label_set(name: str) -> LabelSet:
  """Finds a label set by name (`LABEL_SETS`), or reads a labels.json.

  Raises:
    InputError: Neither a known name nor a readable file in the expected format.
  """
  if name in LABEL_SETS:
    return LABEL_SETS[name]
  path = local_path(name)
  if not path.is_file():
    raise InputError(
      f'label set {name!r}: neither one of {", ".join(LABEL_SETS)} nor a file; '
      'give one of these names or the path of a labels.json'
    )
  return LabelSet.from_json(read_json(path, 'give a labels.json'), str(path))
