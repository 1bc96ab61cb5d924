"""The errors a user can meet. Every message is one line that names the thing, what was found and what was expected."""


class InputError(Exception):
    """Bad usage or bad input (a file, a bundle, a request). Commands print it as one line and exit with code 2."""


class BundleError(InputError):
    """A bundle is incomplete, altered, unsafe or too new; nothing of it was loaded."""


class NotFound(InputError):
    """What is named is not there."""


class EngineError(Exception):
    """Valid input could not be processed. Commands print it as one line and exit with code 1."""


class EngineLost(EngineError):
    """No engine is there to answer: it died twice on this frame, or none is ready. Another try may succeed."""


class NotNow(EngineError):
    """It cannot be done as things stand; the message says what stands against it."""


class Cancelled(Exception):
    """Whoever asked does not want the answer any more."""
