"""``python -m pixaff``: the command line."""

from pixaff.cli.app import main

if __name__ == "__main__":
    main()
