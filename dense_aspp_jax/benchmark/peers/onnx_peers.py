"""onnxruntime and OpenVINO, on one ONNX file from PyTorch; imported only by a peer's process."""

from __future__ import annotations

import abc
import contextlib
import io
import logging
import pathlib
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch

from dense_aspp_jax.benchmark.peers.peer import Peer, Task, timed
from dense_aspp_jax.benchmark.peers.pytorch_network import Network, Prediction, load
from dense_aspp_jax.models.segmentation import create_model


class OnnxPeer(Peer):
  """Inference from images to class indices; the file has the weights and the batch's shape."""

  def __init__(self, task: Task):
    self.task, self.images = task, task.batch['image']

  def logits(self, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of a session that has the logits as a second output; the step's own has the classes alone."""
    network = Network(create_model(**self.task.model)).eval()
    load(network, weights)
    with_logits = _export(Prediction(network, self.task.mean, self.task.std, with_logits=True), self.images)
    _, logits = self.session(with_logits)()
    del with_logits.graph.output[1]
    self.model = with_logits
    return np.ascontiguousarray(logits[0].transpose(1, 2, 0))

  def prepare(self, weights: Mapping[str, np.ndarray] | None) -> dict[str, Any]:
    """See `Peer`; takes no other weights than `logits`."""
    start = time.perf_counter()
    self.step = self.session(self.model)
    (classes,) = self.step()
    return {'seconds': time.perf_counter() - start, 'classes': classes[0]}

  def run(self, steps: int) -> tuple[float, float]:
    """See `Peer`."""
    return timed(self.step, steps)

  @abc.abstractmethod
  def session(self, model: onnx.ModelProto) -> Callable[[], list[np.ndarray]]:
    """Compiles a graph and returns what runs it on the batch."""


class OnnxRuntime(OnnxPeer):
  """onnxruntime's CPU provider, all graph optimizations on, as they are by default."""

  def session(self, model: onnx.ModelProto) -> Callable[[], list[np.ndarray]]:
    """See `OnnxPeer`."""
    import onnxruntime  # not at the top: it or OpenVINO may be missing

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = self.task.threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
      model.SerializeToString(), options, providers=['CPUExecutionProvider']
    )
    feed = {session.get_inputs()[0].name: self.images}
    return lambda: session.run(None, feed)

  def describe(self) -> dict[str, Any]:
    """Versions."""
    import onnxruntime

    return {'onnxruntime': onnxruntime.__version__, 'torch': torch.__version__}


class OpenVino(OnnxPeer):
  """OpenVINO's CPU plugin, in float32: by default it computes in bfloat16 where the processor has it."""

  def session(self, model: onnx.ModelProto) -> Callable[[], list[np.ndarray]]:
    """See `OnnxPeer`."""
    import openvino

    options = {
      'INFERENCE_NUM_THREADS': self.task.threads,
      'INFERENCE_PRECISION_HINT': 'f32',
      'PERFORMANCE_HINT': 'LATENCY',
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(io.BytesIO(model.SerializeToString())), 'CPU', options)
    request = compiled.create_infer_request()

    def run() -> list[np.ndarray]:
      results = request.infer([self.images], share_inputs=True, share_outputs=True)
      return [results[output] for output in compiled.outputs]

    return run

  def describe(self) -> dict[str, Any]:
    """Versions."""
    import openvino

    return {'openvino': openvino.__version__, 'torch': torch.__version__}


def _export(prediction: torch.nn.Module, images: np.ndarray) -> onnx.ModelProto:
  logging.getLogger('torch.onnx').setLevel(logging.ERROR)  # it misses torchvision
  with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    path = pathlib.Path(folder) / 'network.onnx'
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      torch.onnx.export(
        prediction, (torch.from_numpy(images),), path, dynamo=True, external_data=False, verbose=False
      )
    return onnx.load(path)
