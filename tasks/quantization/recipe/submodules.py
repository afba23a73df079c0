"""Which part of a network a layer belongs to, by the names that exports keep."""

import re

from tasks.graphs.sites import Site
from tasks.numerics.quantized_weight import WeightScheme
from tasks.quantization.recipe.recipe import Recipe

ATTENTION, SCORES, FEED_FORWARD = "attention projections", "attention scores", "feed-forward"
EMBEDDINGS, NORMS, HEAD, CONVOLUTIONS, OTHER = (
    "embeddings",
    "norms",
    "head",
    "convolutions",
    "other layers",
)

_WORDS = (
    (ATTENTION, re.compile(r"attention|attn|query|q_proj|qkv|c_attn")),
    (HEAD, re.compile(r"(^|\.)(lm_head|head|classifier|pooler|score|logits)(\.|$)")),
    (
        FEED_FORWARD,
        re.compile(r"intermediate|mlp|ffn|feed_?forward|(up|down|gate)_proj|\.output\.dense|fc\d"),
    ),
)
_IN_BLOCK = re.compile(r"(^|\.)(\d+)(\.|$)")


def submodule(site: Site, *, last: bool) -> str:
    """Return the site's part of the network.

    The last site is the head unless it stands in a numbered block.
    """
    if any(layer.op == "Conv" for layer in site.layers):
        return CONVOLUTIONS
    if last and not _IN_BLOCK.search(site.name):
        return HEAD
    return next((part for part, words in _WORDS if words.search(site.name)), OTHER)


def submodules(sites: tuple[Site, ...]) -> dict[str, str]:
    """Return site name -> part of the network, for all sites in graph order."""
    return {site.name: submodule(site, last=site is sites[-1]) for site in sites}


def schemes_by_site(recipe: Recipe, sites: tuple[Site, ...]) -> dict[str, WeightScheme]:
    """Return site name -> weight scheme: a head's own, where the recipe has one.

    A site that stands alone is no head: it is all there is to quantize. Products that are cast have
    no scheme.
    """
    if not isinstance(recipe.weights, WeightScheme):
        return {}
    schemes = {site.name: recipe.weights for site in sites}
    if recipe.head is None or len(sites) == 1:
        return schemes
    heads = {name for name, part in submodules(sites).items() if part == HEAD}
    if recipe.head.at_ends:
        heads |= _ends(sites)
    return schemes | dict.fromkeys(heads, recipe.head.weights)


def _ends(sites: tuple[Site, ...]) -> frozenset[str]:
    """Return sites of the first and the last numbered block; none where no block lies between."""
    numbers = {site.name: _IN_BLOCK.search(site.name) for site in sites}
    blocks = {name: int(match[2]) for name, match in numbers.items() if match}
    if len(set(blocks.values())) < 3:
        return frozenset()
    ends = (min(blocks.values()), max(blocks.values()))
    return frozenset(name for name, block in blocks.items() if block in ends)
