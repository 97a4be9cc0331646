"""The forwarder of the udp backend: one process per node, between its TUN device and its peers' UDP sockets.

The wire format is flannel's (facts.md 1.9): a UDP datagram holds one IP packet of a pod and nothing else.

Read in this order: `config` (what it is told), `packet` and `routes` (pure: what a packet says, whose it is), `simple`
(the loop, read, look up, send), `endpoint` (what the loop holds), `__main__` (how the process starts), `counters`.

Then what moves many packets at once, pure and with numpy: `vnet` (what TUN says about a packet), `rows` (segments of
one flow as an array), `split` (a super-packet into a train of datagrams), `join` (a train into super-packets).

It imports little, because there is one on every node.
"""
