"""Turns run records and published figures into a directory of static pages. Nothing else
in the harness imports it, except its commands.

Imports go one way: builder -> pages -> charts -> page.py -> data. A page is a module in pages/, a
template a file in site/templates/.
"""
