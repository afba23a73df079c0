"""How candidates of a model are derived, by its form."""

from tasks.quantization.forms.checkpoint import CheckpointDerivation
from tasks.quantization.forms.graph import GraphDerivation
from tasks.quantization.forms.port import Derivation
from tasks.specs.form import ByForm

DERIVATIONS: ByForm[Derivation] = ByForm(graph=GraphDerivation(), checkpoint=CheckpointDerivation())
