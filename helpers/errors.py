"""What went wrong, in one sentence for the user: every error that a bad input, setting or machine can cause is one of these."""


class UserError(Exception):
    """An error whose text is one whole sentence: what is wrong, where, what was expected, what to do."""


def in_a_line(error: Exception) -> str:
    """The first line of what a library says, which may quote what it read."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return "".join(mark if mark.isprintable() else "?" for mark in line[:200]).strip(". ")


class ConfigError(UserError):
    """A setting that cannot work."""


class DumpError(UserError):
    """A dump that cannot be read; names the file and, where there is one, the line or byte."""


class ArtefactError(UserError):
    """A file or folder that a stage needs is missing, damaged or of another run, or could not be written."""


class TrainingError(UserError):
    """A training run that does not learn: the loss stays at chance, or is no longer a number."""
