"""REST under /api/v1, and /health: by name, checked, with one shape of error."""

from webui.rest.routes import add_rest

__all__ = ["add_rest"]
