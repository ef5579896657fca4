"""Turns run records and published figures into a directory of static pages. Nothing imports it
back.

A page is a file in harness/site/pages/ (see page.py); a template is a file in site/templates/.
"""
