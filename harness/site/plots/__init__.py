"""The site's charts as files for papers: PDF, SVG and PNG, drawn by matplotlib.

The pages draw inline SVG themselves: it follows the page's width and its light or dark colours, it
is read out by screen readers, and a build makes thousands of them, each in well under a
millisecond. A paper has none of that: it wants a fixed width, embedded fonts and a caption. Both
draw the same pictures (harness/site/charts/), so that they agree.

`families/` names the charts, one file for each family, found by themselves; `drawing/` has one file
for each kind of picture.
"""
