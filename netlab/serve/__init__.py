"""A small server in one thread, for programs that a lab runs many of: cluster DNS and the echo server.

Read ports (how sockets are opened), then loop.
"""
