"""Sphinx configuration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from anyssh._version import __version__

sys.path.insert(0, str(Path(__file__).parents[1]))

project = "anyssh"
author = copyright = "anyssh contributors"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "docs._diagrams.extension"]
exclude_patterns = ["_build", "results"]
html_theme = "furo"
html_title = "anyssh"
html_static_path = ["_static"]
html_css_files = ["anyssh.css"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88
autodoc_default_options = {"members": True, "show-inheritance": True}

nitpicky = True
# Only our own names can be resolved: the build must not need a network.
nitpick_ignore_regex = [
    ("py:.*", r"(?!anyssh\b).*"),
    ("py:class", r"anyssh\.testing\.(conformance\.Trial|faults\.Editor)"),
    ("py:class", r"anyssh\.forwarding\.(methods\.ForwardingMethods|local\.Forward)"),
    ("py:class", r"anyssh\.forwarding\.remote\._Remote(Listening|Forwarding)"),
    (
        "py:class",
        r"anyssh\.session\.(services\.ServiceT|life\.SessionLife|channel\.(Recipient|Attendant))",
    ),
]

# Made by calls and not by their constructors.
NOT_CONSTRUCTED = {
    "anyssh.AgentIdentity",
    "anyssh.Channel",
    "anyssh.ChannelOpening",
    "anyssh.ClientSession",
    "anyssh.ForwardedConnection",
    "anyssh.ForwardedPort",
    "anyssh.LocalForward",
    "anyssh.MultiChannelStream",
    "anyssh.PortForwarding",
    "anyssh.RemoteConnectable",
    "anyssh.RemoteForward",
    "anyssh.RemoteListener",
    "anyssh.RemoteSocksForward",
    "anyssh.SocksForward",
    "anyssh.IncomingRequest",
    "anyssh.Key",
    "anyssh.KnownHostVerifier",
    "anyssh.KnownHosts",
    "anyssh.KnownHostsEntry",
    "anyssh.SecureStream",
    "anyssh.ServerSession",
    "anyssh.Session",
    "anyssh.StderrStream",
    "anyssh.testing.MemoryStream",
    "anyssh.websocket.WebSocketStream",
}


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


def hide_constructor(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str, result: str
) -> tuple[str, str] | None:
    """Show no parameters of classes that nobody constructs."""
    return ("", "") if name in NOT_CONSTRUCTED else None


def setup(app: Any) -> None:
    app.connect("missing-reference", resolve_public_name)
    app.connect("autodoc-process-signature", hide_constructor)
