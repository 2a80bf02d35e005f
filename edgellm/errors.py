"""One family of errors. Each message names what was asked, what is wrong and what is possible."""

from __future__ import annotations


class EdgeLLMError(Exception):
    """Anything that went wrong for a reason the user can act on. The command line prints it and exits with 2."""


class ModelFileError(EdgeLLMError):
    """A model file is missing, truncated, corrupt or not of the format that it claims."""


class UnsupportedModelError(EdgeLLMError):
    """A well-formed model asks for something that is not implemented: an architecture, a config key, a tensor type."""


class ContextOverflowError(EdgeLLMError):
    """The tokens asked for do not fit into the context that the engine was loaded with."""


class FetchError(EdgeLLMError):
    """A model could not be fetched or stored: no network, a wrong checksum, a full disk, an unwritable cache."""


class EvaluationError(EdgeLLMError):
    """A task cannot be evaluated: it is unknown, its data is missing or malformed, or what its run needs is not installed."""


class CacheReplacedError(EdgeLLMError):
    """The engine has run another text since; the text's tokens must be given again."""


class InvalidRequestError(EdgeLLMError, ValueError):
    """An argument is outside its range; the message gives the range."""


class NonFiniteError(EdgeLLMError):
    """A model that is run with `check_finite` came to a value that is NaN or infinite."""


class NativeError(EdgeLLMError):
    """The compiled kernels are missing, stale, or cannot run on this processor with what was asked."""


class EdgeLLMWarning(UserWarning):
    """Something works, but not as well as was asked for; the message says what to do. The command line prints it."""
