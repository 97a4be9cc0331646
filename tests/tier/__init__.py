"""The tier of tests that runs in virtual machines: `scripts/test-vm`."""
