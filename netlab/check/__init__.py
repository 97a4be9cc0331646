"""Who reaches whom: the pure half of `netlab check`. The other half, which sends, is `netlab.kernel.probe`.

matrix    members, probes, expectations, verdicts      sample    some of many pairs
packets   ICMP as bytes                                batches   what the neighbour tables can hold at a time
text      a report as lines and as JSON
"""
