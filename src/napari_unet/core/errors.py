"""The errors a user can meet. Each message says what came, what was needed and what to do.

::

    UNetLiveError
    ├── ImageError          an image or its axes cannot be used
    ├── ModelFileError      a model file cannot be opened or written
    │   ├── ChoiceNeeded    it holds several models: one must be named
    │   └── TrustNeeded     it can only be opened by running a program that it carries
    ├── SettingsError       a setting has a value that makes no sense
    ├── CorrectionsError    painted corrections do not fit or do not suffice
    ├── TrainingError       training could not go on
    ├── ProjectError        a project folder cannot be read or written
    └── DeviceMemoryError   the memory of the device does not suffice

None of them is a `RuntimeError`: Qt's generator workers mistake those for a closed window.
"""

__all__ = [
    "ChoiceNeeded",
    "CorrectionsError",
    "DeviceMemoryError",
    "ImageError",
    "ModelFileError",
    "ProjectError",
    "SettingsError",
    "TrainingError",
    "TrustNeeded",
    "UNetLiveError",
]


class UNetLiveError(Exception):
    """Base of all errors whose message is a sentence for the user."""


class ImageError(UNetLiveError):
    """An image, its axes or its values cannot be used."""


class ModelFileError(UNetLiveError):
    """A model file cannot be opened, understood or written."""


class ChoiceNeeded(ModelFileError):
    """A file holds several models.

    Attributes
    ----------
    options : their names; one of them goes to `load_model(..., choose=...)`.
    """

    def __init__(self, sentence: str, options: tuple[str, ...]) -> None:
        super().__init__(sentence)
        self.options = options


class TrustNeeded(ModelFileError):
    """A file can only be opened by running a program that it carries.

    Attributes
    ----------
    sha256 : of the file; given to `load_model(..., trust=...)` it says that the user trusts it.
    program : what would run, in plain words.
    reason : why it cannot be opened otherwise.
    """

    def __init__(self, sentence: str, sha256: str, program: str, reason: str = "") -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sha256 = sha256
        self.program = program


class SettingsError(UNetLiveError, ValueError):
    """A setting has a value that makes no sense; the message names the field."""


class CorrectionsError(UNetLiveError):
    """Painted corrections do not fit the image, or there are too few of them."""


class TrainingError(UNetLiveError):
    """Training could not start or could not go on."""


class ProjectError(UNetLiveError):
    """A project folder cannot be read or written."""


class DeviceMemoryError(UNetLiveError):
    """The memory of the device does not suffice, even for the smallest tile."""
