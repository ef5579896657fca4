"""Set-up of a machine: distribution packages, .venv, and the tools that check web pages."""
