"""What the command line does besides serving; one command, or one thing that commands share, a file."""
