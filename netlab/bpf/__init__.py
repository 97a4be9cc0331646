"""BPF in both forms. eBPF without a compiler: `assembler` makes programs (pure), `loader` gives them to the kernel.

Classic BPF, which decides about single packets: `classic` reads and runs programs (pure), `pcap_filter` has filters
compiled to them.
"""
