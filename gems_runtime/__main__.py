"""`python -m gems_runtime`: the `gems-cache` command where its script is not installed."""

from gems_runtime.cli import main

raise SystemExit(main())
