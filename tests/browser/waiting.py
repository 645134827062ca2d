"""Waiting for something to become true in a page."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, TimeoutError

#: An expression or a function of ``arg``. One that fails is not true yet: between two states of a page what it looks at
#: may be missing for a frame, and Playwright's own waiting gives up at the first error.
_TRUE_YET = """([condition, arg]) => {
  try {
    const told = (0, eval)(condition);
    return typeof told === "function" ? told(arg) : told;
  } catch {
    return false;
  }
}"""


def until(page: Page, condition: str, arg: Any = None, *, timeout: float | None = None) -> None:
    """Wait until a JavaScript condition holds; ``timeout`` in ms.

    Raises:
        TimeoutError: with the condition, when it never did.
    """
    try:
        page.wait_for_function(_TRUE_YET, arg=[f"({condition})", arg], timeout=timeout)
    except TimeoutError as error:
        raise TimeoutError(f"{error}\nThis never became true: {condition}") from error
