"""The one exception that a user is meant to read."""


class UserError(Exception):
    """The user's input is wrong: one sentence that says what, where, and what to do next.

    The command line prints the sentence alone and exits with code 2.
    """
