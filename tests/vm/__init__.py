"""Tests that drive virtual machines from here: `scripts/test-vm` runs them."""
