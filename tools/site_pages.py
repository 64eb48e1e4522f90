"""A hook of MkDocs: the site's pages beside those in docs/, and links that hold in both places.

On a code host a link leads through the repository: README.md says `docs/contract.md`, and
docs/reliability.md says `../chaos/README.md`. Here each of those documents gets a place in the
site, and a look-up by its path in the repository finds it, so that no such link is rewritten and
each is checked in strict mode like any other. The site has no pages of source: there the paths of
the glossary are text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parent.parent
# Where in the site each document outside docs/ is.
PAGES = {
    "README.md": "index.html",
    "README.zh-CN.md": "zh-CN.html",
    "CHANGELOG.md": "changes.html",
    "CONTRIBUTING.md": "contributing.html",
    "benchmarks/README.md": "benchmarks.html",
    "chaos/README.md": "chaos.html",
    "training/README.md": "training.html",
    "consumer/sensestream_consumer/models/demo/MODEL_CARD.md": "demo-model.html",
}
_SOURCE_LINK = re.compile(r"\[(`[^`]+`)\]\(\.\./\w+/sensestream_\w+/[\w/]+(?:/|\.py|\.lua)\)")


class Documents(Files):  # type: ignore[misc]  # MkDocs is not installed where types are checked
    """The site's files, to be found by their paths from docs/ or from the repository's root."""

    def get_file_from_path(self, path: str) -> File | None:
        return super().get_file_from_path(path.removeprefix("../docs/"))


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    documents = Documents(list(files))
    for source, place in PAGES.items():
        documents.append(
            File(
                f"../{source}",
                config.docs_dir,
                config.site_dir,
                config.use_directory_urls,
                dest_uri=place,
                inclusion=InclusionLevel.INCLUDED,  # or `..` would be taken for a hidden file
            )
        )
    return documents


def on_page_markdown(markdown: str, **_: Any) -> str:
    return _SOURCE_LINK.sub(r"\1", markdown)


def on_serve(server: Any, **_: Any) -> None:
    for source in PAGES:
        server.watch(str(ROOT / source))
