"""Test splits whose labels are kept back: what a model says of them is uploaded, and nothing is compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multiway.data.tables import find_column
from multiway.errors import UserError

#: The number of a class that is not known.
UNKNOWN = -1
#: What a sentence about missing labels ends with.
OR_PREDICT = "or write predictions alone with `multiway evaluate TASK --predictions FILE`"


def find_label(
    row: dict[str, Any], named: str | None, names: Sequence[str], path: Path, *, unlabelled: bool
) -> str | None:
    """The column of the label or caption; None where rows may lack one and there is no such column.

    Args:
        named: the column that the user names, which must be there. names: what it is called otherwise.

    Raises:
        UserError: there is no such column, and rows may not lack a label.
    """
    known = {str(column).strip().lower() for column in row}
    if named is not None or any(name.lower() in known for name in names):
        return find_column(row, (named,) if named else names, path)
    if unlabelled:
        return None
    found = ", ".join(map(str, row))
    raise UserError(
        f"{path} has no column {' or '.join(names[:3])} (it has {found}): rename one, {OR_PREDICT}."
    )
