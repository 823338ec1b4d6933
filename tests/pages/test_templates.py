"""What every page does to the words that it shows."""

from hortus.pages.templates import templates


def test_a_document_keeps_its_lines_and_nothing_that_commands() -> None:
    shown = templates().from_string("{{ document }}|{{ document | lines }}")
    text = shown.render(document="a: <b>\n  c: \x1b[2J\u202e\r\u2028d\x00\n")
    assert text == "a: &lt;b&gt;   c: �[2J�  d� |a: &lt;b&gt;\n  c: �[2J�  d�\n"
