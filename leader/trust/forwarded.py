"""What a gateway says of a caller behind it: its certificate, and the address that it came from."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote

from utils.errors import ForbiddenError
from utils.wire.contract import Context

CERTIFICATE = "x-forwarded-client-cert"
_ADDRESS = "x-forwarded-for"
#: One element of the header, with the certificate as percent-encoded PEM; a comma would begin another element.
_ELEMENT = re.compile(r'(?:\w+=[^",;]*;)*Cert="([^",;]+)"(?:;\w+=[^",;]*)*')


def header_of(context: Context, name: str) -> str | None:
    """The header of a call that has this name; raises ForbiddenError where there are several."""
    values = [value for key, value in context.invocation_metadata() or () if key == name]
    if len(values) > 1:
        raise ForbiddenError(f"this call has {len(values)} headers {name}; send one")
    return str(values[0]) if values else None


def address_of(context: Context) -> str:
    """Where the caller is, by the word of the gateway, which comes last; "" if it does not say."""
    return (header_of(context, _ADDRESS) or "").rpartition(",")[2].strip()


@lru_cache(4096)
def certificate_in(header: str) -> bytes:
    """The certificate of the one caller that the header names, PEM; raises ForbiddenError."""
    found = _ELEMENT.fullmatch(header)
    if not found:
        raise ForbiddenError(f"{CERTIFICATE} is not one element with Cert; does the gateway SANITIZE_SET it?")
    return unquote(found[1]).encode()
