"""The exceptions that end a command; `commands.main` turns them into exit codes."""

import signal


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
