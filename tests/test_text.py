import pytest

from rattle.text import one_line, with_article


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        ("two\nlines\r\n", "two lines"),
        ("\x1b]0;title\x07red \x1b[31mtext", "]0;title red [31mtext"),
        ("a\udcffb\x9bc", "a b c"),
        ("Größe 3 µm", "Größe 3 µm"),
    ],
)
def test_texts_become_one_printable_line(text: str, line: str) -> None:
    assert one_line(text) == line


def test_long_texts_are_cut() -> None:
    assert one_line("x" * 50, limit=10) == "xxxxxxxxx…"
    assert one_line("x" * 10, limit=10) == "x" * 10


def test_nouns_have_their_article() -> None:
    assert [with_article(noun) for noun in ("reward", "observation", "last observation")] == [
        "a reward",
        "an observation",
        "a last observation",
    ]
