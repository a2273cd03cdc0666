"""Why a subject has no figures."""


class SubjectSkipped(Exception):
    """What it takes is not there; the message says what."""


class MeasurementError(Exception):
    """What was measured cannot be trusted, or could not be measured; the message says why."""
