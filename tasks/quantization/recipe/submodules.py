"""Which part of a network a layer belongs to, by the names that exports keep."""

import re
from dataclasses import replace

from tasks.graphs.sites import Site
from tasks.quantization.recipe.catalog import Recipe

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
    """The site's part of the network; the last site is the head unless it stands in a numbered block."""
    if any(layer.op == "Conv" for layer in site.layers):
        return CONVOLUTIONS
    if last and not _IN_BLOCK.search(site.name):
        return HEAD
    return next((part for part, words in _WORDS if words.search(site.name)), OTHER)


def submodules(sites: tuple[Site, ...]) -> dict[str, str]:
    """Site name -> part of the network, for all sites in graph order."""
    return {site.name: submodule(site, last=site is sites[-1]) for site in sites}


def by_site(recipe: Recipe, sites: tuple[Site, ...]) -> dict[str, Recipe]:
    """Site name -> the recipe with the weight scheme that the site gets: a head's own, where the recipe has one.

    A site that stands alone is no head: it is all there is to quantize.
    """
    if recipe.head is None or len(sites) == 1:
        return {site.name: recipe for site in sites}
    ends = _ends(sites) if recipe.head_at_ends else frozenset[str]()
    alone = replace(recipe, weights=recipe.head)
    parts = submodules(sites)
    return {name: alone if part == HEAD or name in ends else recipe for name, part in parts.items()}


def _ends(sites: tuple[Site, ...]) -> frozenset[str]:
    """Sites of the first and the last numbered block; nothing where no block lies between them."""
    blocks = {site.name: int(found[2]) for site in sites if (found := _IN_BLOCK.search(site.name))}
    if len(set(blocks.values())) < 3:
        return frozenset()
    return frozenset(
        name
        for name, block in blocks.items()
        if block in (min(blocks.values()), max(blocks.values()))
    )
