"""The ways a command ends early; `commands.main` turns them into exit codes."""

import signal


class InputError(ValueError):
  """Bad input or configuration: exit code 2.

  The message says what was found, where (path or field), what was expected, what to do; a line for each
  thing wrong.
  """


class RunError(RuntimeError):
  """A run that had begun and could not go on: exit code 1."""


class Stopped(BaseException):
  """A command that was asked to end by a signal, and did: exit code 128 + the signal's number.

  Like KeyboardInterrupt no Exception, so that nothing that handles failures takes it for one.

  Attributes:
    signal: Which one.
  """

  def __init__(self, number: int, text: str = ''):
    """Takes the signal and what the user should know."""
    self.signal = signal.Signals(number)
    super().__init__(text or f'stopped by {self.signal.name}')
