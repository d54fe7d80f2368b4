"""How long a collective takes on known interconnects, by published figures; nothing is measured.

GPUs: the cost model by which NVIDIA's NCCL chooses an algorithm: a fixed latency, a latency for each hop
within and between hosts, and the bytes over the bandwidth of the slowest link. TPUs: rings along the axes of
a torus.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

US = 1e-6
GPUS_PER_HOST = 8
# What a collective reaches of a link's nominal bandwidth. Assumed.
ACHIEVED = 0.8


class Interconnect(Protocol):
  """The links between devices.

  Attributes:
    device: As a device calls itself, a key of `benchmark.device.PEAK_FLOPS`.
    devices_per_host: How many one host feeds.
    max_devices: How many it connects.
    source: Where the figures are from.
  """

  device: str
  devices_per_host: int
  max_devices: int
  source: str

  def all_reduce(self, num_bytes: float, devices: int) -> float:
    """Seconds to sum arrays of so many bytes over the devices, on all of them."""

  def all_gather(self, num_bytes: float, devices: int) -> float:
    """Seconds to give every device the arrays of all; each puts in so many bytes."""


class _Transport(NamedTuple):
  """One of NCCL's ways to send: seconds at the start and a hop, and the share of the bandwidth.

  Attributes:
    start: Of every collective.
    within: A hop over NVLink.
    between: A hop over the network.
    bandwidth: Share of the links' bandwidth that carries data.
  """

  start: float
  within: float
  between: float
  bandwidth: float


# github.com/NVIDIA/nccl v2.28.7 src/graph/tuning.cc: baseLatencies, hwLatencies and the shares of bandwidth
# of the protocols LL and Simple. Several hosts multiply LL's latency within a host by 1.8.
_RING = {
  'LL': _Transport(6.6 * US, 0.6 * US, 2.7 * US, 1 / 4),
  'Simple': _Transport(8.4 * US, 3.4 * US, 14 * US, 1),
}
_TREE = {
  'LL': _Transport(6.8 * US, 0.6 * US, 5.0 * US, 0.9 / 3.8),
  'Simple': _Transport(8.4 * US, 4.0 * US, 14 * US, 0.9),
}
_LL_WITHIN_SEVERAL_HOSTS = 1.8


class GpuHosts(NamedTuple):
  """Hosts of 8 GPUs.

  Attributes:
    device: See `Interconnect`.
    within: Bytes a second from a GPU to the others of its host.
    between: Bytes a second from a host to others, over all its adapters.
    hop: Seconds of a hop between hosts, where it is longer than NCCL's figure.
    source: See `Interconnect`.
    devices_per_host: See `Interconnect`.
    max_devices: See `Interconnect`.
  """

  device: str
  within: float
  between: float
  hop: float
  source: str
  devices_per_host: int = GPUS_PER_HOST
  max_devices: int = 1024

  def all_reduce(self, num_bytes: float, devices: int) -> float:
    """The faster of ring and tree."""
    hosts = math.ceil(devices / GPUS_PER_HOST)
    ring = [
      self._latency(p, name, devices, 2 * (devices - hosts), 2 * (hosts - 1))
      + 2 * (devices - 1) / devices * num_bytes / self._bandwidth(devices) / p.bandwidth
      for name, p in _RING.items()
    ]
    within, between = 2 * (math.ceil(devices / hosts) - 1), 2 * math.ceil(math.log2(hosts))
    tree = [
      self._latency(p, name, devices, within, between)
      + 2 * num_bytes / self._bandwidth(devices) / p.bandwidth
      for name, p in _TREE.items()
    ]
    return min(ring + tree)

  def all_gather(self, num_bytes: float, devices: int) -> float:
    """A ring: NCCL has nothing else for several GPUs a host."""
    hosts = math.ceil(devices / GPUS_PER_HOST)
    return min(
      self._latency(p, name, devices, devices - hosts, hosts - 1)
      + (devices - 1) * num_bytes / self._bandwidth(devices) / p.bandwidth
      for name, p in _RING.items()
    )

  def _bandwidth(self, devices: int) -> float:
    return ACHIEVED * (self.within if devices <= GPUS_PER_HOST else min(self.within, self.between))

  def _latency(self, p: _Transport, name: str, devices: int, within: int, between: int) -> float:
    several = name == 'LL' and devices > GPUS_PER_HOST
    hop = p.within * (_LL_WITHIN_SEVERAL_HOSTS if several else 1)
    return p.start + within * hop + between * max(p.between, self.hop)


class Torus(NamedTuple):
  """A slice of TPUs, with rings in both directions along each axis.

  Attributes:
    device: See `Interconnect`.
    bandwidth: Bytes a second out of a chip, over all its links.
    axes: Of the torus.
    closed_from: Chips from which on the axes close to rings; below, half the bandwidth.
    source: See `Interconnect`.
    devices_per_host: See `Interconnect`.
    max_devices: See `Interconnect`.
    start: Seconds at the start of every collective.
    hop: Seconds from a chip to the next.
  """

  device: str
  bandwidth: float
  axes: int
  closed_from: int
  source: str
  devices_per_host: int
  max_devices: int
  start: float = 1 * US
  hop: float = 1 * US

  def all_reduce(self, num_bytes: float, devices: int) -> float:
    """A reduce-scatter and an all-gather."""
    return 2 * self.all_gather(num_bytes / devices, devices)

  def all_gather(self, num_bytes: float, devices: int) -> float:
    """Along one axis after the other."""
    closed = devices >= self.closed_from
    hops = self.axes * devices ** (1 / self.axes) / (2 if closed else 1)
    bandwidth = ACHIEVED * self.bandwidth / (1 if closed else 2)
    return self.start + hops * self.hop + (devices - 1) * num_bytes / bandwidth


_H100 = 'NVIDIA H100 80GB HBM3'
INTERCONNECTS: dict[str, Interconnect] = {
  'H100, NVLink + InfiniBand NDR': GpuHosts(
    _H100,
    within=450e9,
    between=8 * 50e9,
    hop=0,
    source='H100 data sheet: NVLink 900 GB/s in both directions together; DGX H100: an adapter of 400 Gb/s a '
    'GPU; published',
  ),
  'H100, NVLink + 100 Gb/s Ethernet': GpuHosts(
    _H100,
    within=450e9,
    between=12.5e9,
    hop=20 * US,
    source='NVLink as above; published. One adapter of 100 Gb/s a host, 20 us a hop between hosts; assumed',
  ),
  'TPU v5e': Torus(
    'TPU v5 lite',
    bandwidth=200e9,
    axes=2,
    closed_from=256,
    devices_per_host=8,
    max_devices=256,
    source='cloud.google.com/tpu/docs/v5e: 400 GB/s in both directions together, 2D torus of 256; published. '
    '1 us a start and a hop; assumed',
  ),
  'TPU v5p': Torus(
    'TPU v5',
    bandwidth=600e9,
    axes=3,
    closed_from=64,
    devices_per_host=4,
    max_devices=1024,
    source='cloud.google.com/tpu/docs/v5p: 1,200 GB/s in both directions together, 3D torus from 64 chips '
    'on; published. 1 us a start and a hop; assumed',
  ),
}
