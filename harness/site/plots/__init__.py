"""The site's charts as files for papers: PDF, SVG and PNG, drawn by matplotlib.

Pages contain inline SVG drawn without matplotlib: it adapts to the page's width and colour scheme,
is accessible to screen readers, and takes well under a millisecond, of which a build needs
thousands. Papers need a fixed width, embedded fonts and a caption. Both draw the same pictures
(harness/site/charts/), so that they agree.

`families/` has a module for each family of charts, found automatically; `drawing/` has a module for
each kind of picture.
"""
