"""What README and comments refer to exists in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "slurm_adapter" / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def assert_exists(page: Path, anchor: str, named_in: str) -> None:
    assert page.is_file(), f"{named_in} names {page}"
    assert not anchor or anchor in anchors(page), f"{named_in} names {page.name}#{anchor}"


def test_links_of_readme_lead_to_pages_and_headings() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)#?([^)]*)\)", README)
    for path, anchor in links:
        assert_exists(ROOT / path, anchor, "README")
    assert {DOCS / path.name for path in DOCS.glob("*.md")} <= {ROOT / path for path, _ in links}


def test_references_in_code_lead_to_pages_and_headings() -> None:
    files = [path for folder in ("slurm_adapter", "templates") for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in files:
        text = path.read_bytes().decode(errors="replace")
        for page, anchor in re.findall(r"\bdocs/([a-z]+\.md)(?:#([\w-]+))?", text):
            assert_exists(DOCS / page, anchor, str(path))
