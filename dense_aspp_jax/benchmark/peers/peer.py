"""What a peer is given and what it can do, in a process of its own."""

from __future__ import annotations

import abc
import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Task:
  """One kind of step of one network, on one batch.

  Attributes:
    mode: 'train' or 'inference'.
    model: The section `config.model`.
    batch: 'image' uint8 `[b, h, w, 3]`, 'label' uint8 `[b, h, w]`.
    mean: RGB in 0..1.
    std: RGB in 0..1.
    optimizer: The section `config.optimizer`.
    loss: The section `config.loss`.
    device: 'cpu' or 'cuda'.
    threads: Of a CPU.
    cores: The CPU's cores that the process may run on; None: as it started.
  """

  mode: str
  model: Mapping[str, Any]
  batch: Mapping[str, np.ndarray]
  mean: tuple[float, ...]
  std: tuple[float, ...]
  optimizer: Mapping[str, Any]
  loss: Mapping[str, Any]
  device: str
  threads: int
  cores: tuple[int, ...] | None = None


class Peer(abc.ABC):
  """Makes the steps of a task with another library. Its methods are called in this order."""

  @abc.abstractmethod
  def __init__(self, task: Task):
    """Makes the network, without weights."""

  @abc.abstractmethod
  def logits(self, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """Takes weights and returns the float32 logits `[h, w, classes]` of the batch's first image.

    Args:
      weights: Arrays by the names of `pytorch_network.Network`; all of them, and no others.
    """

  @abc.abstractmethod
  def prepare(self, weights: Mapping[str, np.ndarray] | None) -> dict[str, Any]:
    """Compiles the step and makes the first one.

    Args:
      weights: As for `logits`; None: those that it has.

    Returns:
      'seconds', and the 'loss' of a training step, or the 'classes' `[h, w]` of the first image.
    """

  def warm_up(self, steps: int) -> None:
    """Makes steps while nothing else runs."""
    self.run(steps)

  @abc.abstractmethod
  def run(self, steps: int) -> tuple[float, float]:
    """Makes steps; returns their seconds on the clock, and those of this process on all cores."""

  @abc.abstractmethod
  def describe(self) -> dict[str, Any]:
    """Versions and settings, as plain JSON data."""


def timed(step: Any, steps: int, finish: Any = None) -> tuple[float, float]:
  """The seconds of `run`: of so many calls of `step`, and one of `finish`."""
  start, cpu_start = time.perf_counter(), time.process_time()
  for _ in range(steps):
    step()
  if finish:
    finish()
  return time.perf_counter() - start, time.process_time() - cpu_start
