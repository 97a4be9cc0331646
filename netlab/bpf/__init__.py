"""eBPF without a compiler: `assembler` makes programs (pure), `loader` gives them to the kernel by bpf(2)."""
