import pytest

from sfumato.data.care.redact import Redact

redact = Redact()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to ann.b+c@mail.example.org.", "Write to [email]."),
        ("größe@bücher.de, ok", "[email], ok"),
        ("IBAN DE89 3704 0044 0532 0130 00 please", "IBAN [iban] please"),
        ("GB82WEST12345698765432", "[iban]"),
        ("card 4111 1111 1111 1111.", "card [card]."),
        ("card 5500-0000-0000-0004", "card [card]"),
        ("from 192.168.0.1 to 2001:db8::ff00:42:8329!", "from [ip] to [ip]!"),
        ("Call +49 (30) 1234-5678 or 0044 20 7946 0958.", "Call [phone] or [phone]."),
        ("Call (555) 123-4567 or 555-123-4567.", "Call [phone] or [phone]."),
    ],
)
def test_what_has_the_form_of_personal_data_is_replaced(text: str, expected: str):
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "GB82 WEST 1234 5698 7654 31 is no account",  # the checksum
        "4111 1111 1111 1112 is no card",
        "1111 1111 1111 1111",
        "In 1999-2000 they won 3:2 at 12:30:45, and 10.5 % of 1,234,567.89.",
        "version 1.2.3 and 1.2.3.4.5 and 999.1.1.1",
        "a@b and @name and foo@bar",
        "std::vector, ::, Tom: yes",
        "ISBN 978-3-16-148410-0 on page 123-456",
        "He ran 100 200 300 metres, then 2001 2002 2003.",
        "phone 911",
    ],
)
def test_what_only_looks_like_it_stays(text: str):
    assert redact(text) == text


def test_redacting_twice_changes_nothing_more():
    text = "ann@example.org +49 30 123456 4111111111111111 10.0.0.1"
    assert redact(redact(text)) == redact(text) == "[email] [phone] [card] [ip]"
