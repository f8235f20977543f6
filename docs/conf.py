"""Sphinx configuration."""

from __future__ import annotations

from typing import Any

from anyssh._version import __version__

project = "anyssh"
author = copyright = "anyssh contributors"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "anyssh"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}

nitpicky = True
# Only our own names can be resolved: the build must not need a network.
nitpick_ignore_regex = [("py:.*", r"(?!anyssh\b).*")]


def resolve_public_name(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Point references to where a class is defined at the public name it is documented under."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("anyssh."):
        return None
    domain = env.get_domain("py")
    parts = target.split(".")
    for start in range(len(parts) - 1, 0, -1):
        public = ".".join(["anyssh", *parts[start:]])
        if public in domain.objects:
            return domain.resolve_xref(
                env, node["refdoc"], app.builder, node["reftype"], public, node, content
            )
    return None


def setup(app: Any) -> None:
    app.connect("missing-reference", resolve_public_name)
