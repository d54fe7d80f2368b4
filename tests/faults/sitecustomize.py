"""Takes a guard away in processes that a test starts; Python imports this where PYTHONPATH has its folder."""

import importlib.util
import os
import sys

from faults import guards


class _Unguarded:
  """Finds one module, and replaces the guard's function in it before anything can import it from there."""

  def __init__(self, guard):
    self.guard = guard

  def find_spec(self, name, path, target=None):
    if name != self.guard.module:
      return None
    sys.meta_path.remove(self)
    spec = importlib.util.find_spec(name)
    execute = spec.loader.exec_module

    def execute_and_replace(module):
      execute(module)
      sys.modules[name] = module
      _replace(self.guard)

    spec.loader.exec_module = execute_and_replace
    return spec


def _replace(guard):
  owner, name, function = guard.find()
  setattr(owner, name, guard.without(function))


(_guard,) = [g for g in guards.GUARDS if g.name == os.environ[guards.VARIABLE]]
if _guard.module in sys.modules:
  _replace(_guard)
else:
  sys.meta_path.insert(0, _Unguarded(_guard))
