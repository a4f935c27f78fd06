"""The one exception that a user is meant to read."""


class UserError(Exception):
    """The user's input is wrong: one sentence that says what, where, and what to do next.

    The command line prints the sentence alone and exits with code 2.
    """


def refuse_negative(where: str, **numbers: int) -> None:
    """Refuse a setting of `where` that is below 0.

    Raises:
        UserError: one is.
    """
    for name, value in numbers.items():
        if value < 0:
            raise UserError(f"{where}.{name} is {value}: give a whole number, 0 or more")
