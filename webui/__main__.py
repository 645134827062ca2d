"""``python -m webui`` is the ``easel`` command."""

from webui.cli import main

if __name__ == "__main__":
    main()
