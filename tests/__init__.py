"""The tests mirror the package: what `keepalive/x.py` promises is proven in `tests/test_x.py`."""
