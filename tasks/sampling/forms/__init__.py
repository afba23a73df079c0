"""How large single requests' values are, by the form of their model."""

from collections.abc import Callable, Sequence

from tasks.models.catalog import RegisteredModel
from tasks.observation.request_amax import RequestAmax
from tasks.records import Payload, ReleaseRef
from tasks.sampling.forms.checkpoint import watch_checkpoint
from tasks.sampling.forms.graph import watch_graph
from tasks.specs.form import ByForm

Watch = Callable[[RegisteredModel, ReleaseRef | None, Sequence[Payload]], RequestAmax]
WATCHES: ByForm[Watch] = ByForm(graph=watch_graph, checkpoint=watch_checkpoint)
