"""The site: notebooks as stored, proofs, explorers, API, from this repository alone.

    make site    # into build/site; open build/site/index.html

Nothing is run but `explorers.py`, nothing is fetched, and nothing is written beside the sources.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pages

import avmixup_kit

project = "avmixup_kit"
version = release = avmixup_kit.__version__
copyright = "The avmixup_kit developers"
root_doc = "docs/index"
include_patterns = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "benchmarks/README.md",
    "docs/**",
    "notebooks/*.ipynb",
    "results/**/*.md",
    "theory/*.md",
]
# folders that have no page, at the root first: Sphinx looks into all others
exclude_patterns = [".*", "avmixup_kit", "build", "data", "docs/site", "runs", "tests", "**/.*"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]

nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"  # CommonMark has no tables
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_dmath_double_inline = True
myst_heading_anchors = 4
suppress_warnings = ["mystnb.unknown_mime_type"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
default_role = "code"
napoleon_use_rtype = False

html_theme = "sphinx_book_theme"
html_title = "avmixup_kit"
html_favicon = "static/icon.svg"
html_context = {"default_mode": "auto"}
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = [("explorers.js", {"defer": "defer"})]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "footer_content_items": ["copyright"],
    "navbar_persistent": [],
    "use_download_button": False,
    "use_fullscreen_button": False,
    "use_source_button": False,
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
mathjax_path = "mathjax/tex-chtml.js"
# its menu and what it reads aloud would load parts that are not here
mathjax3_config = {"options": {"enableMenu": False}}

setup = pages.setup
