"""A fuzzer for `frames` and `messages`, and what it has found.

    make fuzz                      a minute
    FUZZ_SECONDS=3600 make fuzz    an hour

The corpus reaches all code that any run has reached; `tests/test_fuzz.py` replays it.
"""
