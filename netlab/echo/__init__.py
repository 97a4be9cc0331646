"""The built-in workload that is its own proof: it answers with who it is and whom it saw.

Read http (the bytes), talk (what is said), then __main__ (the process).
"""
