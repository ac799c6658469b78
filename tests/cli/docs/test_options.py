"""What is read out of signatures and docstrings."""

from dataclasses import dataclass, field

from tokenprune.cli.docs.options import Option, options_of, states_equation, text_of


class Base:
    """A base.

    Args:
        tau: temperature.
    """


class Mine(Base):
    """First line.

    The rest, s = x.

    Args:
        context: see `Context`.
        tau: see `Base`.
        first, second: two at once,
            over two lines. third: on the same line (odd). ratio: 1:2 or e.g. note: none.

    Raises:
        ValueError: always.
    """

    def __init__(self, context: object, first: int = 1, second: "str | None" = None, third: bool = True, tau: float = 1.0, ratio=0.5):
        pass


@dataclass(frozen=True)
class Settings:
    """No options told."""

    keep: dict[int, float] = field(default_factory=dict)


def test_options_have_type_default_and_meaning():
    assert options_of(Mine) == [
        Option("first", "int", "1", "two at once, over two lines."),
        Option("second", "str | None", "null", "two at once, over two lines."),
        Option("third", "bool", "true", "on the same line (odd)."),
        Option("tau", "float", "1.0", "temperature."),
        Option("ratio", "", "0.5", "1:2 or e.g. note: none."),
    ]
    assert options_of(Settings) == [Option("keep", "dict[int, float]", "{}", "")]


def test_text_stops_at_the_sections():
    assert text_of(Mine) == ("First line.", "The rest, s = x.")


def test_an_equation_is_told_from_words():
    assert all(states_equation(text) for text in ("p = softmax(W x)", "g <- (1 - t) g", "SViT Eq. 2"))
    assert not any(states_equation(text) for text in ("Keeps the tokens that matter.", "at most 1 <= 2 tokens", "a == b"))
