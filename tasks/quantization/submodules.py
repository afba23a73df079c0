"""Which part of a network a layer belongs to, by the names that exports keep."""

import re

from tasks.observation.sites import Site

ATTENTION, SCORES, FEED_FORWARD = "attention projections", "attention scores", "feed-forward"
EMBEDDINGS, NORMS, HEAD, CONVOLUTIONS, OTHER = "embeddings", "norms", "head", "convolutions", "other layers"

_WORDS = (
    (ATTENTION, re.compile(r"attention|attn|query|q_proj|qkv|c_attn")),
    (HEAD, re.compile(r"(^|\.)(lm_head|head|classifier|pooler|score|logits)(\.|$)")),
    (FEED_FORWARD, re.compile(r"intermediate|mlp|ffn|feed_?forward|(up|down|gate)_proj|\.output\.dense|fc\d")),
)
_IN_BLOCK = re.compile(r"(^|\.)\d+(\.|$)")


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
