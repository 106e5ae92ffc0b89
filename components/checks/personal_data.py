"""The check for personal data: patterns with check digits, and telephone numbers by `phonenumbers`."""

import ipaddress
import re
from collections.abc import Iterator

from components.checks.entries import Entries, Flag
from components.checks.secrets import Span
from components.config import ChecksConfig

EMAIL = re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}\b")
NOBODYS = re.compile(
    r"@(?:[\w-]+\.)*(?:example|test|domain|email|company|yourdomain|yourcompany|mail|website|invalid)\.\w+\Z"
    r"|\A(?:user(?:name)?|your[._]?\w*|name|someone|email|example|no-?reply|info|support|contact|hello|test)@",
    re.IGNORECASE,
)
"""Addresses of examples and of offices."""
NUMBER = re.compile(r"(?<![\w.])(?:\+|\(|\d)[\d ().\-/]{5,30}\d(?![\w])")
"""What may be a telephone or card number."""
CARD = re.compile(r"(?<![\w.+-])(?:\d[ -]?){12,18}\d(?![\w-])")
CARD_BRANDS = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:2[2-9]|[3-6]\d|7[01]|720)\d{12,13}|3[47]\d{13}|6(?:011|5\d\d)\d{12}"
)
IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?!\w)")
_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI NL",
    19: "SI",
    20: "AT EE LT LU",
    21: "CH HR LI LV",
    22: "BG DE GB IE RS",
    23: "AE IL",
    24: "AD CZ ES RO SA SE SK",
    25: "PT",
    26: "IS TR",
    27: "FR GR IT MC SM",
    28: "CY HU PL",
    29: "BR UA",
    31: "MT",
}
IBAN_LENGTHS = {country: length for length, names in _COUNTRIES.items() for country in names.split()}
"""Lengths by country, of the IBAN registry (ISO 13616)."""
SOCIAL_SECURITY = re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
ADDRESS = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)")
MIN_DIGITS, MIN_ADDRESS_DIGITS = 7, 4
"""Fewest digits of a telephone number or an account, and of an IP address."""
MIN_LARGEST_PART = 64
"""Least value of an IP address's largest part: versions and revisions have lower ones, as 1 address in 256 has."""
DIGITS = b"0123456789"
NOT_SEPARATED = re.compile(r"\d+(?:[.-]\d+)?\Z|\d{4}[-/.]\d{1,2}[-/.]\d{1,4}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}")
"""Plain numbers, ranges and dates, which are no telephone numbers."""


def find_personal_data(text: str, *, region: str) -> list[Span]:
    """Return the personal data in a text, in the order of their places.

    Args:
        text: The text.
        region: Country of telephone numbers without a country code; empty finds only those with one.
    """
    spans = _emails(text) if "@" in text else []
    encoded = text.encode(errors="surrogatepass")
    num_digits = len(encoded) - len(encoded.translate(None, DIGITS))
    if num_digits >= MIN_ADDRESS_DIGITS:
        spans += _addresses(text)
    if num_digits >= MIN_DIGITS:
        spans += _accounts(text)
        spans += _phones(text, region, spans)
    return sorted(spans, key=lambda span: span.start)


def personal_data(entries: Entries, config: ChecksConfig) -> Iterator[Flag]:
    """Find personal data in prompts and answers."""
    for entry in entries.pairs:
        for text in entry.texts:
            spans = find_personal_data(text, region=config.phone_region)
            if spans:
                yield Flag(entry.row, spans[0].kind, text, spans[0].start, spans[0].end)
                break


def has_valid_luhn_digit(digits: str) -> bool:
    """Return whether the last digit is the check digit of the others (Luhn, ISO/IEC 7812-1)."""
    doubled = [int(digit) * 2 for digit in digits[-2::-2]]
    total = sum(map(int, digits[-1::-2])) + sum(value - 9 if value > 9 else value for value in doubled)
    return total % 10 == 0


def is_iban(text: str) -> bool:
    """Return whether a text without spaces is an IBAN: its country's length, and 1 modulo 97 (ISO 13616)."""
    if len(text) != IBAN_LENGTHS.get(text[:2]):
        return False
    return int("".join(str(int(character, 36)) for character in text[4:] + text[:4])) % 97 == 1


def _emails(text: str) -> list[Span]:
    return [Span("e-mail address", *found.span()) for found in EMAIL.finditer(text) if not NOBODYS.search(found[0])]


def _accounts(text: str) -> Iterator[Span]:
    for found in IBAN.finditer(text):
        if is_iban(found[0].replace(" ", "")):
            yield Span("IBAN", *found.span())
    for found in CARD.finditer(text):
        digits = re.sub(r"\D", "", found[0])
        if CARD_BRANDS.fullmatch(digits) and has_valid_luhn_digit(digits) and len(set(digits)) > 3:
            yield Span("card number", *found.span())
    for found in SOCIAL_SECURITY.finditer(text):
        yield Span("social security number", *found.span())


def _addresses(text: str) -> Iterator[Span]:
    for found in ADDRESS.finditer(text):
        try:
            is_public = ipaddress.ip_address(found[0]).is_global
        except ValueError:
            continue
        if is_public and max(map(int, found[0].split("."))) >= MIN_LARGEST_PART:
            yield Span("IP address", *found.span())


def _phones(text: str, region: str, others: list[Span]) -> Iterator[Span]:
    """Yield telephone numbers that are valid in their country and do not lie in another span."""
    if not any(_may_be_phone(found[0]) for found in NUMBER.finditer(text)):
        return
    import phonenumbers

    for match in phonenumbers.PhoneNumberMatcher(text, region or None):
        inside = any(span.start < match.end and match.start < span.end for span in others)
        if not inside and _may_be_phone(match.raw_string):
            yield Span("telephone number", match.start, match.end)


def _may_be_phone(number: str) -> bool:
    """Return whether a number is written as telephone numbers are: with a plus, a bracket, or in groups."""
    digits = sum(map(str.isdigit, number))
    return MIN_DIGITS <= digits <= 15 and (number[0] in "+(" or not NOT_SEPARATED.match(number))
