"""What the tests put into tables that are printed when all are done."""

from __future__ import annotations

from edgellm.measure.table import markdown

Row = tuple[str, ...]


class Tables:
    """Rows by the title of their table."""

    def __init__(self) -> None:
        self._heads: dict[str, Row] = {}
        self._rows: dict[str, list[Row]] = {}

    def add(self, title: str, head: Row, row: Row) -> None:
        """Add a row to the table of this title, which has this head."""
        self._heads[title] = head
        self._rows.setdefault(title, []).append(row)

    def shown(self) -> dict[str, str]:
        """Each table as Markdown, by its title."""
        return {title: markdown(head, self._rows[title]) for title, head in self._heads.items()}
