"""The tests mirror the package: what `keepalive/x.py` promises is proven in `tests/test_x.py`."""

from hypothesis import settings

# A busy machine is no failure; the timeout of pytest catches what hangs.
settings.register_profile("keepalive", deadline=None)
settings.load_profile("keepalive")
