"""The benchmarks: what keepalive costs, beside what a user would pick instead. See `__main__`."""
