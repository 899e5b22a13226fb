"""Claims about `signimage.response`: what of a server's words gets into a text."""

import pytest

from signimage.response import readable

SECRET = "s3cret" * 8


@pytest.mark.parametrize("before", range(240, 293, 7))
def test_long_words_of_a_server_are_cut_between_words(before: int) -> None:
    """Half of a token would pass every mask."""
    said = readable(f"{'y' * before} Bearer {SECRET} and more {'z' * 300}")
    assert said.endswith(" …")
    assert len(said) <= 300 + len(" …")
    assert SECRET in said or "s3c" not in said


def test_one_long_word_of_a_server_is_not_shown_at_all() -> None:
    assert readable("eyJ" * 200) == "…"
