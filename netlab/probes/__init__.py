"""Looking at pods from their node as kubelet does, and telling load balancers about a node as kube-proxy does.

Read readiness (what probes' outcomes come to), then ask (TCP and HTTP) and command, then healthcheck.
"""
