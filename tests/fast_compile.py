"""Flags with which XLA compiles in haste: tests run a program a few times at most."""

import jax

# XLA ends a process that is given a flag it does not know; this one is gone from jax 0.11 on.
_OLDER = " --xla_cpu_use_fusion_emitters=false" if jax.__version_info__ < (0, 11) else ""
XLA_FLAGS = f"--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1{_OLDER}"
