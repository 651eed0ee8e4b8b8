#!/usr/bin/env python3
"""`jetface` in the images, where the code lies in /app and no package is installed for it."""

from jetface.cli.main import main

if __name__ == "__main__":
    main()
