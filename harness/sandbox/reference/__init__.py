"""Other ways to run a program apart from the rest, small, to compare with: one module for each."""
