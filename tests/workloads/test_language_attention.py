import pytest
import torch
from language_runs import TINY

from harness.workloads.language.attention import CAUSAL
from harness.workloads.language.task import make_model

SHAPES = {
    "narrow heads": TINY,
    "narrow heads, grouped queries": TINY.model_copy(update={"heads": 4, "head_dim": 4}),
    "wide heads": TINY.model_copy(update={"heads": 1, "kv_heads": 1, "head_dim": 16}),
}


@pytest.mark.parametrize("name", SHAPES)
def test_logits_and_gradients_are_those_of_the_stock_implementation(name):
    torch.manual_seed(0)
    tokens = torch.randint(0, 256, (3, 16))
    found = {}
    for implementation in (CAUSAL, "sdpa", "eager"):
        model = make_model(SHAPES[name], 3, torch.device("cpu"))
        model.set_attn_implementation(implementation)
        logits = model(input_ids=tokens).logits
        logits.square().sum().backward()
        found[implementation] = [logits.detach(), *(p.grad for p in model.parameters())]
    for stock in ("sdpa", "eager"):
        for mine, theirs in zip(found[CAUSAL], found[stock], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
