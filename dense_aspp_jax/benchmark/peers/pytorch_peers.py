"""PyTorch, eager and compiled; imported only by a peer's process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dense_aspp_jax.benchmark.peers.peer import Peer, Task, timed
from dense_aspp_jax.benchmark.peers.pytorch_network import Network, Prediction, load
from dense_aspp_jax.models.segmentation import create_model


class Eager(Peer):
  """The network with its optimizer on a device."""

  compiled = False

  def __init__(self, task: Task):
    torch.set_num_threads(task.threads)
    self.task, self.on_gpu = task, task.device == 'cuda'
    _allow_tf32(True)
    network = Network(create_model(**task.model))
    self.prediction = Prediction(network, task.mean, task.std)
    self.prediction.to(task.device, memory_format=torch.channels_last)
    self.network = self.prediction.network.train(task.mode == 'train')
    self.image, self.label = (torch.from_numpy(task.batch[n]).to(task.device) for n in ('image', 'label'))

  def logits(self, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """In float32: not compiled, without autocast and tensor-float-32."""
    load(self.network, weights)
    _allow_tf32(False)
    training = self.network.training
    with torch.inference_mode():
      logits, _ = self.network.eval()(self.prediction.normalize(self.image[:1]))
    self.network.train(training)
    _allow_tf32(True)
    return logits[0].permute(1, 2, 0).cpu().numpy()

  def prepare(self, weights: Mapping[str, np.ndarray] | None) -> dict[str, Any]:
    """See `Peer`; `torch.compile` compiles the whole of what inference computes, in training the network."""
    if weights is not None:
      load(self.network, weights)
    self.predict, self.forward = self.prediction, self.network
    if self.compiled:
      # As after `torch.export`: the weights are constants, BN is folded into the convolutions.
      self.predict = torch.compile(self.prediction, options={'freezing': True}, dynamic=False)
      self.forward = torch.compile(self.network, dynamic=False)
    if self.task.mode == 'train':
      self.optimizer = self._optimizer()
    start = time.perf_counter()
    result = self._step()
    self._synchronize()
    seconds = time.perf_counter() - start
    if self.task.mode == 'train':
      return {'seconds': seconds, 'loss': float(result)}
    return {'seconds': seconds, 'classes': result[0].cpu().numpy()}

  def warm_up(self, steps: int) -> None:
    """From here on cuDNN tries its algorithms, with the device for itself."""
    torch.backends.cudnn.benchmark = True
    if self.on_gpu:
      torch.cuda.empty_cache()
    self.run(steps)
    if self.on_gpu:
      torch.cuda.reset_peak_memory_stats()

  def run(self, steps: int) -> tuple[float, float]:
    """See `Peer`."""
    return timed(self._step, steps, self._synchronize)

  def describe(self) -> dict[str, Any]:
    """Version, device and the most bytes allocated since the warm-up (None on a CPU)."""
    return {
      'torch': torch.__version__,
      'cudnn': torch.backends.cudnn.version(),
      'device': torch.cuda.get_device_name() if self.on_gpu else f'cpu, {torch.get_num_threads()} threads',
      'peak_bytes_allocated': torch.cuda.max_memory_allocated() if self.on_gpu else None,
    }

  def _optimizer(self) -> torch.optim.Optimizer:
    fields = self.task.optimizer
    options = dict(lr=fields['learning_rate'], weight_decay=fields['weight_decay'], fused=True)
    if fields['name'] == 'sgd':
      options['momentum'] = fields['momentum']
    optimizers = {'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW, 'sgd': torch.optim.SGD}
    return optimizers[fields['name']](self.network.parameters(), **options)

  def _step(self) -> torch.Tensor:
    """One step, not synchronized; returns the loss, or class indices."""
    autocast = self.task.model['compute_dtype'] == 'bfloat16'
    context = torch.autocast(self.task.device, torch.bfloat16, enabled=autocast)
    if self.task.mode == 'inference':
      with torch.inference_mode(), context:
        return self.predict(self.image)
    self.optimizer.zero_grad(set_to_none=True)
    with context:
      main, auxiliary = self.forward(self.prediction.normalize(self.image))
    loss = self._cross_entropy(main)
    if auxiliary is not None:
      loss = loss + self.task.loss['auxiliary_weight'] * self._cross_entropy(auxiliary)
    loss.backward()
    self.optimizer.step()
    return loss.detach()

  def _cross_entropy(self, logits: torch.Tensor) -> torch.Tensor:
    weights = self.task.loss['class_weights']
    weights = torch.tensor(weights, device=self.task.device) if weights else None
    return F.cross_entropy(logits, self.label.long(), weights, ignore_index=self.task.loss['ignore_label'])

  def _synchronize(self) -> None:
    if self.on_gpu:
      torch.cuda.synchronize()


class Compiled(Eager):
  """The same under torch.compile."""

  compiled = True


def _allow_tf32(allow: bool) -> None:
  torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allow
