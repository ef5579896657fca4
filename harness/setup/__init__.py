"""Set-up of a machine: the distribution's packages, .venv, and the tools that check pages."""
