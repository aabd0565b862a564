"""What a file is, told from its first bytes."""

from __future__ import annotations

import re

_MOST_HEADER = 100_000_000  # bytes of a safetensors header, as its own reader has it


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins as safetensors do: eight bytes with the header's length, then the header, a JSON object."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MOST_HEADER


def is_page(head: bytes) -> bool:
    """Whether a file begins like a web page (HTML or XML), as no weights and no archive do."""
    # A header of safetensors may be of a length whose bytes look like text.
    return not is_safetensors(head) and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def page_words(head: bytes) -> str:
    """A web page in words, with its title."""
    title = re.search(rb"<title[^>]*>([^<]{1,200})", head, re.IGNORECASE)
    words = " ".join(title[1].decode("utf-8", "replace").split())[:80] if title else ""
    words = "".join(sign for sign in words if sign.isprintable())
    return f'found a web page (HTML), "{words}"' if words else "found a web page (HTML)"
