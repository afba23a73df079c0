"""How a candidate is judged, by the form of its model."""

from tasks.specs.form import ByForm
from tasks.validation.forms.checkpoint import CheckpointJudge
from tasks.validation.forms.graph import GraphJudge
from tasks.validation.forms.port import Judge

JUDGES: ByForm[Judge] = ByForm(graph=GraphJudge(), checkpoint=CheckpointJudge())
