"""Pages on which visitors register an account."""

from .pages import Registration

__all__ = ["Registration"]
