"""Pod networks side by side, on this machine and in one run: what each carries, and what a round trip takes."""
