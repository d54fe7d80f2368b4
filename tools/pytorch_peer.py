"""The steps of tools/compare_pytorch.py in PyTorch; imported only by the processes that run them."""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_network import Network


class Peer:
  """The network with its optimizer on a device, eager or compiled."""

  def __init__(self, *, network, device, dtype, compiled, batch, optimizer, loss, mean, std, threads):
    """Puts the network, its weights drawn by torch, and the data on the device.

    Args:
      network: Arguments of `Network`.
      device: 'cpu' or 'cuda'.
      dtype: 'float32', or 'bfloat16' for autocast.
      compiled: Whether torch.compile compiles the network.
      batch: 'image' uint8 `[b, h, w, 3]`, 'label' uint8 `[b, h, w]`.
      optimizer: Fields of `config.optimizer`.
      loss: Fields of `config.loss`.
      mean: RGB in 0..1.
      std: RGB in 0..1.
      threads: Of a CPU.
    """
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    self.device, self.on_gpu, self.autocast = device, device == 'cuda', dtype == 'bfloat16'
    self.network = Network(**network).to(device, memory_format=torch.channels_last)
    self.forward = torch.compile(self.network) if compiled else self.network
    options = dict(lr=optimizer['learning_rate'], weight_decay=optimizer['weight_decay'], fused=self.on_gpu)
    if optimizer['name'] == 'sgd':
      options['momentum'] = optimizer['momentum']
    optimizers = {'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW, 'sgd': torch.optim.SGD}
    self.optimizer = optimizers[optimizer['name']](self.network.parameters(), **options)
    self.image, self.label = (torch.from_numpy(batch[name]).to(device) for name in ('image', 'label'))
    self.mean, self.std = (torch.tensor(v, device=device)[:, None, None] for v in (mean, std))
    self.ignore_label = loss['ignore_label']
    self.class_weights = torch.tensor(loss['class_weights'], device=device) if loss['class_weights'] else None

  def load(self, weights):
    """Takes weights, arrays by name; all of them, and no others."""
    state = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
    missing, unexpected = self.network.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith('num_batches_tracked')]
    if missing or unexpected:
      raise ValueError(f'the weights lack {missing[:5]} and have {unexpected[:5]} too much')

  def logits(self, image):
    """Logits `[b, h, w, classes]` of `image`, uint8 `[b, h, w, 3]`, not compiled, without tensor-float-32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    self.network.eval()
    with torch.inference_mode():
      result = self.network(self._normalize(torch.from_numpy(image).to(self.device)))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return result.permute(0, 2, 3, 1).cpu().numpy()

  def prepare(self, mode):
    """Makes the first step of 'train' or 'inference', which compiles; returns seconds and training's loss."""
    self.network.train(mode == 'train')
    start = time.perf_counter()
    value = self._step(mode)
    self._synchronize()
    return time.perf_counter() - start, float(value) if mode == 'train' else None

  def warm_up(self, mode, steps):
    """Makes steps; from here on cuDNN tries its algorithms, with the device for itself."""
    torch.backends.cudnn.benchmark = True
    if self.on_gpu:
      torch.cuda.empty_cache()
    self.milliseconds(mode, steps)
    if self.on_gpu:
      torch.cuda.reset_peak_memory_stats()

  def milliseconds(self, mode, steps):
    """Milliseconds of a step, over so many."""
    start = time.perf_counter()
    for _ in range(steps):
      self._step(mode)
    self._synchronize()
    return 1e3 * (time.perf_counter() - start) / steps

  def description(self):
    """Version, device and the most bytes allocated since the warm-up (None on a CPU)."""
    return {
      'torch': torch.__version__,
      'cudnn': torch.backends.cudnn.version(),
      'device': torch.cuda.get_device_name() if self.on_gpu else f'cpu, {torch.get_num_threads()} threads',
      'peak_bytes_allocated': torch.cuda.max_memory_allocated() if self.on_gpu else None,
    }

  def _normalize(self, image):
    # [b, h, w, 3] seen as [b, 3, h, w] is channels_last as it is.
    return (image.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

  def _step(self, mode):
    """One step, not synchronized; returns the loss, or class indices."""
    context = torch.autocast(self.device, torch.bfloat16, enabled=self.autocast)
    if mode == 'inference':
      with torch.inference_mode(), context:
        return self.forward(self._normalize(self.image)).argmax(1).to(torch.uint8)
    self.optimizer.zero_grad(set_to_none=True)
    with context:
      logits = self.forward(self._normalize(self.image))
    loss = F.cross_entropy(logits, self.label.long(), self.class_weights, ignore_index=self.ignore_label)
    loss.backward()
    self.optimizer.step()
    return loss.detach()

  def _synchronize(self):
    if self.on_gpu:
      torch.cuda.synchronize()
