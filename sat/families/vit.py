"""Vision transformers (ViT)."""

from sat.families.dialect import Dialect
from sat.naming import MLP, Attention

find_vit = Dialect(
    "vit",
    "layers",
    (
        Attention(
            query="attention.q_proj",
            key="attention.k_proj",
            value="attention.v_proj",
            output="attention.o_proj",
            head_dim="attention.head_dim",
            heads=("attention.num_attention_heads",),
        ),
        MLP(("mlp.fc1",), "mlp.fc2"),
    ),
)
