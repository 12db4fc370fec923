"""What messages say of extras, ``pip install 'vpbench[search]'``: true where vpbench is installed, and in a mere clone."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

_EXTRA = re.compile(r"(?<=pip install ')vpbench(?=\[)")


def runnable(text: str) -> str:
    """A message whose commands work here.

    Where vpbench is installed, pip takes the extras of that installation. In a clone that is not, it would look for vpbench in a
    package index; there the commands name the clone.
    """
    return text if _is_installed() else _EXTRA.sub(lambda _: str(Path(__file__).resolve().parents[2]), text)


@cache
def _is_installed() -> bool:
    try:
        distribution("vpbench")
    except PackageNotFoundError:
        return False
    return True
