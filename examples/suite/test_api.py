"""A suite that takes longer than a login lasts; `keepalive hold` looks after the cookies of its client."""

import json
import os
import time
import unittest
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

APP, JAR = urlsplit(os.environ["APP"]).netloc, Path(os.environ["JAR"])
LONG = float(os.environ.get("LONG", "3600"))


def get(path: str) -> Any:
    """Ask the app, with the cookies as they are now: what is renewed is in the file."""
    rows = [line.split("\t") for line in JAR.read_text().splitlines()]
    cookies = "; ".join(f"{row[5]}={row[6]}" for row in rows if len(row) == 7)
    with closing(HTTPConnection(APP)) as http:
        # Passive: let nobody say that the suite's own requests have kept its login alive.
        http.request("GET", path, headers={"Cookie": cookies, "X-Keepalive": "passive"})
        return json.load(http.getresponse())


class Api(unittest.TestCase):
    def test_who_i_am_before_and_after_a_long_time(self) -> None:
        self.assertEqual(get("/whoami")["user"], "suite")
        time.sleep(LONG)
        self.assertEqual(get("/whoami")["user"], "suite")


if __name__ == "__main__":
    unittest.main()
