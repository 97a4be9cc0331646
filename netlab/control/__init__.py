"""A lab's control plane: one process that makes Services, workloads and cluster DNS what was declared (adr/0007)."""
