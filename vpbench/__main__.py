"""``python -m vpbench`` is the ``vpbench`` command."""

from vpbench.cli.app import main

if __name__ == "__main__":
    main()
