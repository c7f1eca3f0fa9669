"""The forms in which a secret appears in output: plain, base64, hex, URL-encoded, escaped, line by line. Pure."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

# Shorter values are only masked as whole words: as parts of words they are too frequent ("dev" in "device"). Other
# products don't mask such values at all (CircleCI below 4 characters, GitLab below 8) or always (GitHub).
MINIMUM_LENGTH = 4
# A single character isn't a secret, and masking it would make the log unreadable.
MINIMUM_WORD_LENGTH = 2
# Forms cost a worker memory and time in each stage, and each may have to be searched for in a build's whole output. All
# forms are made for this much of a project's values, the shortest first: any number of tokens, and some keys.
MOST_CHARACTERS = 32 * 1024
MOST_FORMS = 6000
# Of the other values, up to this many lines are masked one by one; a value with more lines is masked as a whole.
MOST_LINES = 2000
# Frequent values of variables that aren't secrets; masking them would make the log unreadable.
_HARMLESS = re.compile(
    "true|false|yes|no|on|off|null|none|undefined|enabled|disabled"
    "|production|prod|development|dev|test|testing|staging|stage|preview|local"
    "|debug|info|warn|warning|error|silent|verbose"
    "|localhost|127.0.0.1|0.0.0.0|utf-8|utf8|en_us.utf-8|c.utf-8|node|npm|yarn|pnpm|bun"
)

# Shorter secrets are only masked in their own case: "Main" would hide every "main".
_MINIMUM_CASED = 8
# The width at which `xxd -p` wraps.
_HEX_WIDTH = 60
# Widths at which base64 is wrapped: openssl and PEM, GNU coreutils and MIME.
_BASE64_WIDTHS = (64, 76)
_HTML_IN_JSON = re.compile("[<>&]")
# Without the x of an escape.
_UPPER_HEX = str.maketrans("abcdef", "ABCDEF")
_JSON_ESCAPE = re.compile(r"\\u([0-9a-f]{4})")
_IN_DOUBLE_QUOTES = re.compile(r'["$`\\]')
_SHELL_SPECIAL = re.compile(r"[^\w@%+=:,./-]", re.ASCII)
_URL_SAFE_SETS = ("", "/", "!'()*~", ";,/?:@&=+$-_.!~*'()#")


def forms_of_all(secrets: Iterable[str]) -> set[str]:
    """Every text to mask for secrets of at least MINIMUM_LENGTH characters.

    Their number and the time to find them are bounded: above the bounds, long secrets are only masked in plain form.
    """
    forms: set[str] = set()
    long: list[str] = []
    characters = 0
    for secret in sorted(set(secrets), key=lambda text: (len(text), text)):
        characters += len(secret)
        if not long and characters <= MOST_CHARACTERS and len(more := forms | forms_of(secret)) <= MOST_FORMS:
            forms = more
        else:
            long.append(secret)
    most = len(forms) + MOST_LINES
    for secret in long:
        more = forms | _plain_forms(secret)
        forms = more if len(more) <= most else forms | {secret, secret.strip()}
    return forms


def forms_of(secret: str) -> set[str]:
    """Every text to mask for a secret of at least MINIMUM_LENGTH characters."""
    plain = _plain_forms(secret)
    forms = set(plain)
    for value in {secret, secret.strip()} - {""}:
        forms |= _base64_forms(value) | _hex_forms(value) | _url_forms(value) | _escaped_forms(value)
        if len(value) >= _MINIMUM_CASED:
            forms |= {value.upper(), value.lower()}
    return {form for form in forms if len(form) >= MINIMUM_LENGTH}


def words_of(secret: str) -> set[str]:
    """The whole words to mask for a secret of two or three characters."""
    word = secret.strip()
    encoded = {
        encode(word.encode(errors="replace")).decode() for encode in (base64.b64encode, base64.urlsafe_b64encode)
    }
    words = {word} | encoded | {text.rstrip("=") for text in encoded}
    words |= _hex_forms(word) | _url_forms(word) | _escaped_forms(word)
    return {text for text in words if len(text) >= MINIMUM_WORD_LENGTH}


def is_harmless(secret: str) -> bool:
    """Whether the value is an ordinary one of configuration, such as "true" or "production"."""
    return _HARMLESS.fullmatch(secret.strip().lower()) is not None


def _plain_forms(secret: str) -> set[str]:
    lines = [line.strip() for line in secret.splitlines()]
    if len(lines) <= 1:
        return {secret, secret.strip()}
    long_lines = {line for line in lines if len(line) >= MINIMUM_LENGTH}
    if long_lines:
        # Short lines ("}") aren't masked: they are frequent, and reveal nothing without the others.
        return long_lines
    return {secret, secret.strip(), secret.replace("\n", "\r\n")}


def _base64_forms(secret: str) -> set[str]:
    """Base64 of the secret inside any longer text: one form for each of its three alignments to groups of 3 bytes, cut
    to the characters that depend only on the secret."""
    data = secret.encode(errors="replace")
    forms: set[str] = set()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(data).decode()
        forms |= {whole, whole.rstrip("=")}
        for offset, dropped in ((0, 0), (1, 2), (2, 3)):
            encoded = encode(b"\0" * offset + data).decode()
            forms.add(encoded[dropped : (offset + len(data)) * 8 // 6])
        for width in _BASE64_WIDTHS:
            if len(whole) > width:
                pieces = [whole[start : start + width] for start in range(0, len(whole), width)]
                forms |= {piece for piece in pieces if len(piece) >= 2 * MINIMUM_LENGTH}
    return forms


def _hex_forms(secret: str) -> set[str]:
    """The formats of `xxd -p`, `hexdump` and Python: digits without a separator, with one, and with escapes."""
    digits = secret.encode(errors="replace").hex()
    pairs = [digits[start : start + 2] for start in range(0, len(digits), 2)]
    forms = {digits, *(separator.join(pairs) for separator in (" ", ":", "-"))}
    forms |= {"".join(f"{escape}{pair}" for pair in pairs) for escape in ("\\x", "%")}
    if len(digits) > _HEX_WIDTH:
        pieces = (digits[start : start + _HEX_WIDTH] for start in range(0, len(digits), _HEX_WIDTH))
        forms |= {piece for piece in pieces if len(piece) >= 2 * MINIMUM_LENGTH}
    return forms | {form.translate(_UPPER_HEX) for form in forms}


def _url_forms(secret: str) -> set[str]:
    forms = {quote(secret, safe=safe, errors="replace") for safe in _URL_SAFE_SETS}
    forms.add(quote_plus(secret, errors="replace"))
    return forms | {_with_lower_escapes(form) for form in forms}


def _with_lower_escapes(quoted: str) -> str:
    head, *parts = quoted.split("%")
    return head + "".join(f"%{part[:2].lower()}{part[2:]}" for part in parts)


def _escaped_forms(secret: str) -> set[str]:
    forms = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    # Go and many servers escape the special characters of HTML; others use upper-case digits, or escape the slash.
    forms |= {_HTML_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", form) for form in forms}
    forms |= {_JSON_ESCAPE.sub(lambda match: "\\u" + match[1].upper(), form) for form in forms}
    forms |= {form.replace("/", "\\/") for form in forms}
    forms |= {html.escape(secret), html.escape(secret, quote=False)}
    forms |= _shell_forms(secret)
    return {form for form in forms if "\n" not in form}


def _shell_forms(secret: str) -> set[str]:
    """Words quoted by shells and Python: `set -x`, shlex.quote, in double quotes, printf %q, repr."""
    return {
        secret.replace("'", "'\\''"),
        secret.replace("'", "'\"'\"'"),
        _IN_DOUBLE_QUOTES.sub(r"\\\g<0>", secret),
        _SHELL_SPECIAL.sub(r"\\\g<0>", secret),
        repr(secret)[1:-1],
    }
