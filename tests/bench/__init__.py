"""Benchmarks: ratios measured side by side in one run, on a machine that nobody has to have to himself.

Started by `scripts/bench`. Every contender runs in a sandbox of its own (`sandbox`), so nothing outside changes.
Read `up` for the flow, `contenders` for who takes part, `report` for the arithmetic.
"""
