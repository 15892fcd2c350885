"""BERT, RoBERTa and whatever has their layers. A norm follows every residual sum: no layer can be the identity."""

from sat.families.dialect import Dialect
from sat.naming import MLP, Attention


def _attention(holder: str, *, optional: bool = False) -> Attention:
    return Attention(
        query=f"{holder}.self.query",
        key=f"{holder}.self.key",
        value=f"{holder}.self.value",
        output=f"{holder}.output.dense",
        head_dim=f"{holder}.self.attention_head_size",
        heads=(f"{holder}.self.num_attention_heads",),
        features=(f"{holder}.self.all_head_size",),
        optional=optional,
    )


find_bert = Dialect(
    "bert",
    "layer",
    (
        _attention("attention"),
        _attention("crossattention", optional=True),
        MLP(("intermediate.dense",), "output.dense"),
    ),
    identity=False,
)
