"""The errors a user can meet. Each message names the thing, its value, the rule and the remedy."""


class VideoFlamingoError(Exception):
    """Base of every error this package raises on purpose; the command line prints it without a traceback."""


class UsageError(VideoFlamingoError):
    """The request itself is wrong: an unknown name, a broken shots file, an option out of range."""


class SamplingError(UsageError):
    """Frames were asked for that cannot exist: no frames, an empty range, a start after the end."""


class VideoError(VideoFlamingoError):
    """A source cannot be read as video or picture; the message names the source and the cause."""


class ModelError(VideoFlamingoError):
    """A model, tower or checkpoint cannot be found, does not fit, or cannot be used as asked."""
