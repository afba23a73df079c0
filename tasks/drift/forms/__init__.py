"""How a window is held against a champion of each form."""

from tasks.drift.forms.checkpoint import CheckpointWatch
from tasks.drift.forms.graph import GraphWatch
from tasks.drift.forms.port import Watch
from tasks.specs.form import ByForm

WATCHES: ByForm[Watch] = ByForm(graph=GraphWatch(), checkpoint=CheckpointWatch())
