"""Personal data that has a form: what looks like it, and passes its checksum where there is one, is replaced.

Names, addresses and whatever else has no form are not found. Whoever has a better detector passes that instead: any
`Change` will do.
"""

import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import NamedTuple

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[^\W\d_]{2,}(?![\w-])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_CARD = re.compile(
    r"(?<![\d.-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?|\d{4}[ -]\d{6}[ -]\d{5})(?![\d-]|\.\d)"
)
_IP = re.compile(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})(?![\w:]|\.\d)")
# With a + or 00 in front, or in brackets, or in three groups: else years, prices and scores would be taken for it.
_PHONE = re.compile(
    r"(?<![\w.+-])(?<!\d )(?:(?:\+|00)\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}"
    r"|\(\d{2,5}\)[ .-]?\d{3,4}[ .-]?\d{3,4}|\d{3}[ .-]\d{3}[ .-]\d{4})(?![\w-]|\.\d)"
)


class _Kind(NamedTuple):
    """A form of personal data, and whether something of that form really is it."""

    name: str
    pattern: re.Pattern[str]
    really: Callable[[str], bool]

    def replacement(self, found: re.Match[str]) -> str:
        """What stands there afterwards."""
        return f"[{self.name}]" if self.really(found[0]) else found[0]


class Redact:
    """E-mail addresses, IBANs, card numbers, IP addresses and telephone numbers become `[email]`, `[iban]`, ..."""

    name = "redacted"

    def __call__(self, text: str) -> str:
        """The text without them."""
        for kind in _KINDS:
            text = kind.pattern.sub(kind.replacement, text)
        return text


def _iban(text: str) -> bool:
    """The checksum of ISO 13616: the number modulo 97 is 1, letters counting from A = 10."""
    letters = text.replace(" ", "")
    digits = "".join(str(int(letter, 36)) for letter in letters[4:] + letters[:4])
    return 15 <= len(letters) <= 34 and int(digits) % 97 == 1


def _luhn(text: str) -> bool:
    """The checksum of ISO 7812: every second digit from the right is doubled; the digits' digits add up to tens."""
    digits = [int(letter) for letter in reversed(text) if letter.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) if i % 2 else digit for i, digit in enumerate(digits)]
    return len(set(digits)) > 1 and sum(doubled) % 10 == 0


def _address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return text != "::"


_KINDS = (
    _Kind("email", _EMAIL, lambda text: True),
    _Kind("iban", _IBAN, _iban),
    _Kind("card", _CARD, _luhn),
    _Kind("ip", _IP, _address),
    _Kind("phone", _PHONE, lambda text: sum(letter.isdigit() for letter in text) >= 7),
)
