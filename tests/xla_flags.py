"""XLA's flags for tests, here and in processes that tests start."""

import importlib.metadata


def xla_flags(devices: int) -> str:
  """So many fake devices, and machine code made sooner that runs slower: tests run it once or twice."""
  flags = [f'--xla_force_host_platform_device_count={devices}', '--xla_backend_optimization_level=0']
  version = importlib.metadata.version('jaxlib').split('.')
  if (int(version[0]), int(version[1])) < (0, 11):  # 0.12 ends a process that asks for it; 0.11 was not tried
    flags.append('--xla_cpu_use_fusion_emitters=false')
  return ' '.join(flags)
