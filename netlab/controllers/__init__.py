"""The cluster's own decisions, as Kubernetes' controllers make them. Pure, and called again after each change.

Read in this order: `state` (what they look at), `allocate` (addresses and ports that nobody chose), `endpoints` (which
pods are behind which Service), then `workloads` (which pods there should be; a module for each kind) and `environment`.
"""
