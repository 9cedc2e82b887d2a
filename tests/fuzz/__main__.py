"""Fuzz each target for its share of some seconds, led by the coverage that libFuzzer gets from atheris.

What reaches new code is added to the corpus. So is what breaks a target, and then the exit status is 1.
"""

import subprocess
import sys
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["keepalive", "tests"]):
    from .targets import CORPUS, TARGETS

MAX_INPUT = 600
"""In bytes; enough to pass every limit of the targets."""


def fuzz(seconds: int) -> int:
    """Fuzz all targets, each in processes of its own: libFuzzer never returns."""
    broken = False
    for name in TARGETS:
        corpus = CORPUS / name
        me = [sys.executable, "-m", "tests.fuzz", name, f"-artifact_prefix={corpus}/"]
        with TemporaryDirectory() as found:
            limits = [f"-max_len={MAX_INPUT}", f"-max_total_time={seconds // len(TARGETS)}", "-timeout=5"]
            broken |= subprocess.run([*me, *limits, found, corpus], check=False).returncode != 0
            # By what code is reached, not how often: else the corpus would grow for ever.
            subprocess.run([*me, "-merge=1", "-use_counters=0", corpus, found], check=True)
    return int(broken)


if sys.argv[1] in TARGETS:
    # With -merge libFuzzer runs itself again, by a shell.
    itself = f"{sys.executable} -m tests.fuzz {sys.argv[1]}"
    atheris.Setup([itself, *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
else:
    sys.exit(fuzz(int(sys.argv[1])))
