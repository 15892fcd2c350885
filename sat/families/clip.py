"""CLIP: a stack in each tower, or one in a tower alone; also SigLIP, whose layers are the same."""

from sat.families.dialect import Dialect
from sat.naming import MLP, Attention

find_clip = Dialect(
    "clip",
    "layers",
    (
        Attention(
            query="self_attn.q_proj",
            key="self_attn.k_proj",
            value="self_attn.v_proj",
            output="self_attn.out_proj",
            head_dim="self_attn.head_dim",
            heads=("self_attn.num_heads",),
        ),
        MLP(("mlp.fc1",), "mlp.fc2"),
    ),
)
