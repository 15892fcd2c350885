"""Encoder-decoders of the Marian and BART kind: a stack on each side, cross-attention in the decoder.

Their norms follow the residual sums. Relatives whose norms come first (mBART, Pegasus) have the same names; they
are treated alike, which is safe: their new layers enter by a gate too.
"""

from torch import nn

from sat.families.dialect import Dialect
from sat.naming import MLP, Attention


def _attention(holder: str, *, optional: bool = False) -> Attention:
    return Attention(
        query=f"{holder}.q_proj",
        key=f"{holder}.k_proj",
        value=f"{holder}.v_proj",
        output=f"{holder}.out_proj",
        head_dim=f"{holder}.head_dim",
        heads=(f"{holder}.num_heads",),
        optional=optional,
    )


def _config_fields(layer: nn.Module) -> tuple[str, ...]:
    """Both sides share one configuration, with a number for each."""
    return ("decoder_layers",) if hasattr(layer, "encoder_attn") else ("encoder_layers",)


find_marian = Dialect(
    "marian",
    "layers",
    (_attention("self_attn"), _attention("encoder_attn", optional=True), MLP(("fc1",), "fc2")),
    identity=False,
    config_fields=_config_fields,
)
