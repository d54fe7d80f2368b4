"""Functions without what makes them guards; each makes such a function from the guard's."""

import contextlib
import dataclasses
import inspect
import io
import pathlib
import signal
import types
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from dense_aspp_jax.checkpoint_io import ReadBackError
from dense_aspp_jax.datasets.png import read_png_header
from dense_aspp_jax.datasets.stored_files import StoredFile
from dense_aspp_jax.errors import RunError


def returns(value: Any) -> Callable[[Callable], Callable]:
  """Without the guard, nothing is done."""
  return lambda function: lambda *_, **__: value


def keeps_unfinished(rmtree: Callable) -> Callable:
  """Without the guard, what an interrupted save left stays; finished checkpoints are deleted as ever."""

  def kept(path, *args, **options):
    return None if '.orbax-checkpoint-tmp' in str(path) else rmtree(path, *args, **options)

  return kept


def accepts(value: Any = None) -> Callable[[Callable], Callable]:
  """Without the guard, nothing is raised; the result is `value` where the guard would raise."""

  def without(function):
    def quiet(*args, **arguments):
      try:
        return function(*args, **arguments)
      except Exception:
        return value

    return quiet

  return without


def called_with(**changed: Any) -> Callable[[Callable], Callable]:
  """Without the guard, the function gets these arguments, whatever it is called with."""

  def without(function):
    signature = inspect.signature(function)

    def call(*args, **arguments):
      bound = signature.bind(*args, **arguments)
      bound.arguments.update(changed)
      return function(*bound.args, **bound.kwargs)

    return call

  return without


def default_sigterm(enter):
  """SIGTERM ends the process at once."""

  def entered(self):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return self

  return entered


def fails_at_second_signal(enter):
  def entered(self):
    enter(self)
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, fails_if_received(self, signal.getsignal(number)))
    return self

  def fails_if_received(self, handler):
    def handle(number, frame):
      assert self.received is None
      handler(number, frame)

    return handle

  return entered


def drops_late_signal(leave):
  return lambda self, kind, *rest: leave(self, kind or KeyboardInterrupt, *rest)


def pillow_label(decode):
  """Pillow's idea of a label map: whatever its mode, 8-bit grey values."""
  return lambda data, where, **_: np.asarray(Image.open(io.BytesIO(data)).convert('L'))


def low_byte(decode):
  return lambda data, where, **_: np.asarray(Image.open(io.BytesIO(data))).astype(np.uint8)


def header_alone(check):
  """A PNG is right if its header is."""
  return read_png_header


def clipped_grey(decode):
  """Pillow's conversion of 16-bit grey values clips them."""

  def decoded(data, where, **options):
    with Image.open(io.BytesIO(data)) as image:
      if image.mode.startswith('I'):
        return np.array(image.convert('RGB'))
    return decode(data, where, **options)

  return decoded


def stretches_label(check):
  """A label of another size is stretched to its image's."""

  def checked(pair, *args, **options):
    stretched = io.BytesIO()
    with Image.open(pair.image.open()) as image, Image.open(pair.label.open()) as label:
      label.resize(image.size, Image.Resampling.NEAREST).save(stretched, 'PNG')
    label = StoredFile(pair.label.where, lambda: io.BytesIO(stretched.getvalue()))
    return check(pair._replace(label=label), *args, **options)

  return checked


def skips_in_validation(begin):
  return lambda self, name, limit, *rest: begin(self, name, limit or 9 * name.endswith('validation'), *rest)


def without_problems(listing):
  return lambda *args: listing(*args)._replace(problems=[])


def lower_case_alone(files):
  def listed(folder):
    found = files(folder)
    return found._replace(taken={n: f for n, f in found.taken.items() if n.rpartition('.')[2].islower()})

  return listed


def zero_for_none(score):
  def scored(*args):
    scores = score(*args)
    return dataclasses.replace(scores, iou={name: value or 0.0 for name, value in scores.iou.items()})

  return scored


def never_skips(create):
  def created(config, *args, **options):
    training = dataclasses.replace(config.training, max_skipped_steps=0)
    return create(dataclasses.replace(config, training=training), *args, **options)

  return created


def hides_what_is_not_finite(add):
  return lambda self, step, metrics: add(self, step, {k: jnp.nan_to_num(x) for k, x in metrics.items()})


def counts_unread(start_saving):
  """A checkpoint counts when it was written, whatever is on disk."""

  def start(*args):
    saving = start_saving(*args)

    def result():
      with contextlib.suppress(ReadBackError):
        saving.result()

    return types.SimpleNamespace(result=result)

  return start


def without_links(files):
  """Links are not followed."""

  def listed(folder):
    found = files(folder)
    paths = {
      name: [folder / name, *(folder / parent for parent in pathlib.PurePath(name).parents)]
      for name in found.taken
    }
    return found._replace(
      taken={n: f for n, f in found.taken.items() if not any(p.is_symlink() for p in paths[n])}
    )

  return listed


def any_array(rgb_pixels):
  return lambda image, *_: np.asarray(image)


def unexplained(function):
  """What a library raised is not explained."""

  def call(*args, **arguments):
    try:
      return function(*args, **arguments)
    except RunError as error:
      raise error.__cause__ or error from None

  return call


def unexplained_batches(train_batches):
  def batches(*args, **arguments):
    try:
      yield from train_batches(*args, **arguments)
    except RunError as error:
      raise error.__cause__ or error from None

  return batches
