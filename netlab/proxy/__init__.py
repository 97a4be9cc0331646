"""What puts a proxier's rules into a node's kernel and keeps them there. Start with `proxier.py`."""
