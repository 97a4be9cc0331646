"""Guided demos: a small lab, a few commands that show one thing each, and the words between."""
