"""The process that keeps a lab's containers and forwarders: PID 1 of the lab's own pid namespace.

When it ends, however it ends, the kernel takes every process of the lab with it. Run as
`python -m netlab.supervisor LAB RUNTIME_DIR` by `netlab.supervisor.client`, its only client.

Read in this order: `spec` (what it is told and what it tells), `decide` (what to do next, pure), `spawn` (how a
container comes to be), `processes` (all of them), `loop` (the process itself), `__main__` (how it becomes a daemon).

It imports little, because it lives as long as its lab, and forks for every container.
"""
