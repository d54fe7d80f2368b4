"""What a generated street scene shows beyond plain shapes, for ablations."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Style:
  """Groups of properties that make scenes resemble photographs; the data sets have them all.

  Without a group, its part of a scene is about as plain as in version 1 of the data set. The groups draw
  their random numbers apart, so that a scene keeps its plan when one is left out.

  Attributes:
    textures: Asphalt, paving, masonry, glass, irregular foliage and bare trees.
    light: Overexposed and overcast skies, dark exposures, shade between houses, contact shadows.
    camera: Focal length, height, horizon, roll, place in the lane, and bonnets of several cars.
    objects: Cars of more shapes, rows of parked cars, clutter on the pavement, more road markings.
  """

  textures: bool = True
  light: bool = True
  camera: bool = True
  objects: bool = True
