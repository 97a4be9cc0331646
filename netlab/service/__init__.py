"""Services: a stable address in front of pods, as kube-proxy makes it on every node (facts.md 3, 4, 5 and 8)."""
