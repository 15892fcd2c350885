"""Decoders of the Llama kind: Llama, Mistral, Qwen2, Qwen3 and whatever has their layers."""

from sat.families.dialect import Dialect
from sat.naming import MLP, Attention

find_llama = Dialect(
    "llama",
    "layers",
    (
        Attention(
            query="self_attn.q_proj",
            key="self_attn.k_proj",
            value="self_attn.v_proj",
            output="self_attn.o_proj",
            head_dim="self_attn.head_dim",
        ),
        MLP(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
    ),
)
