"""`python -m keepalive`, and the `keepalive` command."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None, *, demo: bool = False) -> int:
    """Run the command line.

    Args:
        arguments: what follows the program's name; by default what it was called with.
        demo: whether `serve` mounts the demo app.

    Returns:
        The exit code: 0 when all is well, 1 when something failed, 2 for a mistake in what it was
        told, 3 for a session that is over; from `hold`, that of its command.
    """
    try:
        from . import cli  # noqa: PLC0415 - the core installs without what the command line needs
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        sys.stderr.write(f'keepalive: {name} is missing: pip install "session-keepalive[server]"\n')
        return 2
    return cli.main(sys.argv[1:] if arguments is None else arguments, demo=demo)


if __name__ == "__main__":
    sys.exit(main())
