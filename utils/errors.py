"""The one exception a user should ever see."""


class UserError(Exception):
    """A mistake the user can mend. Its text names the file or flag and the mend, in one line.

    Entry scripts print it on stderr and exit with 2 (see `utils.cli.run`).
    """
