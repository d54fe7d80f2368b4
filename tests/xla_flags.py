"""XLA's flags for tests, here and in processes that tests start."""


def xla_flags(devices: int) -> str:
  """So many fake devices, and machine code made sooner that runs slower: tests run it once or twice."""
  quick = '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false'
  return f'--xla_force_host_platform_device_count={devices} {quick}'
