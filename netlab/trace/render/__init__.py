"""A trace shown: as a tree in a terminal, as JSON, as a capture file, as a page. All from `model` alone."""
