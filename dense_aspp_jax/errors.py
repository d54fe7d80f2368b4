"""The two ways a command ends badly; `commands.main` turns them into exit codes."""


class InputError(ValueError):
  """Bad input or configuration: exit code 2.

  The message is one line: what was found, where (path or field), what was expected, what to do.
  """


class RunError(RuntimeError):
  """A run that had begun and could not go on: exit code 1."""
