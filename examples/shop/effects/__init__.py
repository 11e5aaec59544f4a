"""The shop's side effects, and functions that query the result of a side effect."""

from examples.shop.effects.captures import capture_payment, find_capture
from examples.shop.effects.emails import find_email, send_email

__all__ = ["capture_payment", "find_capture", "find_email", "send_email"]
