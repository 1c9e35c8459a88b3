"""What is wrong with something that was given: a file, a setting, a name."""


class InputError(ValueError):
    """An input that can't be used. The message says what is wrong, with which value and where, and what to do.

    The command line prints it as it is and ends with exit code 2; any other exception is a fault of the program.
    """
