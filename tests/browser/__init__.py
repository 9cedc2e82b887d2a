"""The page in real browsers, against a real server process."""
