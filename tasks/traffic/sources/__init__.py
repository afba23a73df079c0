"""Sources of live traffic that a schedule reads: folders, S3 prefixes and MLflow experiments."""

from tasks.traffic.sources.files import Reading, take_files
from tasks.traffic.sources.last import Problem, SourceIntake, last_intake, last_of, write_last
from tasks.traffic.sources.places import Folder, Objects, Place
from tasks.traffic.sources.traces import take_traces

__all__ = [
    "Folder",
    "Objects",
    "Place",
    "Problem",
    "Reading",
    "SourceIntake",
    "last_intake",
    "last_of",
    "take_files",
    "take_traces",
    "write_last",
]
