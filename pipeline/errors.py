"""The one exception for what a user can put right."""


class InputError(Exception):
    """Bad params, data, checkpoint or device: one line saying where, what was expected and what was got.

    Stages print it without a traceback and exit with 1; every other exception is a defect of the program.
    """
