"""One packet through a lab: where it was seen, how it was changed there, and why."""
