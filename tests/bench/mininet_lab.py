"""Mininet's way: `PYTHON mininet_lab.py PODS` prints its two times. Runs under the Python that Mininet belongs to.

One Linux bridge, no controller, no traffic shaping, no arping: `mn --topo single,N --switch lxbr --controller none`.
"""

# mypy: disable-error-code="import-not-found, import-untyped"

import json
import sys
import time

from mininet.log import setLogLevel
from mininet.net import Mininet
from mininet.nodelib import LinuxBridge
from mininet.topo import SingleSwitchTopo

setLogLevel("error")
pods = int(sys.argv[1])
started = time.perf_counter()
net = Mininet(topo=SingleSwitchTopo(k=pods), switch=LinuxBridge, controller=None)
net.start()
made = time.perf_counter()
if net.ping([net.get("h1"), net.get(f"h{pods}")], timeout="2"):
    sys.exit("h1 does not reach the last host")
doomed = time.perf_counter()
net.stop()
print(json.dumps({"up": made - started, "down": time.perf_counter() - doomed}))
