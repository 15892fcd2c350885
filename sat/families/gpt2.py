"""GPT-2: transposed weights (``Conv1D``), queries, keys and values side by side in one projection."""

from sat.families.dialect import Dialect
from sat.naming import MLP, Attention

find_gpt2 = Dialect(
    "gpt2",
    "h",
    (
        Attention(
            fused="attn.c_attn",
            output="attn.c_proj",
            head_dim="attn.head_dim",
            heads=("attn.num_heads",),
            features=("attn.split_size",),  # where the forward pass splits the fused projection
        ),
        Attention(
            query="crossattention.q_attn",
            fused="crossattention.c_attn",
            output="crossattention.c_proj",
            head_dim="crossattention.head_dim",
            heads=("crossattention.num_heads",),
            features=("crossattention.split_size",),
            optional=True,
        ),
        MLP(("mlp.c_fc",), "mlp.c_proj"),
    ),
)
