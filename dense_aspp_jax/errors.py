"""The exceptions that end a command; `commands.main` turns them into exit codes."""

import signal
import sys


class InputError(ValueError):
  """Bad input or configuration: exit code 2.

  The message says what was found, where (path or field), what was expected and what to do, with one line per
  problem.
  """


class RunError(RuntimeError):
  """A run that had started and could not continue: exit code 1."""


class Stopped(BaseException):
  """A command ended by a signal: exit code 128 + the signal's number.

  Like KeyboardInterrupt, it is not an Exception, so that error handlers do not catch it.

  Attributes:
    signal: The signal.
  """

  def __init__(self, number: int, text: str = ''):
    """Takes the signal and a message for the user."""
    self.signal = signal.Signals(number)
    super().__init__(text or f'stopped by {self.signal.name}')


def termination_signals() -> tuple[signal.Signals, ...]:
  """SIGTERM, SIGHUP (the terminal was closed), SIGUSR1 and SIGUSR2 (a scheduler's time limit is near).

  Without those that are ignored, as SIGHUP is below nohup.
  """
  numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
  return tuple(number for number in numbers if signal.getsignal(number) != signal.SIG_IGN)


def no_device(error: Exception) -> str | None:
  """What to say of an error of JAX's that means that it has no device; None if it means something else."""
  jax = sys.modules.get('jax')
  if jax is None:
    return None
  reason = str(error).splitlines()[0] if str(error) else 'there is no such device, or no jaxlib for it'
  if isinstance(error, AssertionError):  # bare, where JAX knows the platform but cannot look for its devices
    try:
      jax.devices()
      return None
    except Exception:
      pass
  elif 'Unable to initialize backend' not in reason:
    return None
  reason = reason.partition(" (set JAX_PLATFORMS=''")[0]
  platforms = jax.config.jax_platforms
  asked = f'JAX_PLATFORMS={platforms}' if platforms else 'JAX'
  return (
    f'{asked}: no device to compute on ({reason}). Set JAX_PLATFORMS=cpu, or unset it to use what is there'
  )
