"""Cluster DNS: the names of Services and pods as CoreDNS answers them (facts.md 7).

Read records, places, zone, answer, then zone_file and server.
"""
