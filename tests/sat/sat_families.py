"""One tiny model of every family, with a loss and outputs by the number of a batch."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from sat_models import tokens
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    BertConfig,
    BertForMaskedLM,
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)  # fmt: skip

import sat

LAYERS = 3
DECODER = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32, "use_cache": False,
}  # fmt: skip
ENCODER = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4, "max_position_embeddings": 34, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
T5 = {
    "vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2,
    "num_heads": 4, "dropout_rate": 0.0, "decoder_start_token_id": 0, "use_cache": False,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """``stacks``: names of the lists of layers; ``pinned``: their first stays; ``post_norm``: norms after sums."""

    name: str
    build: Callable[[], nn.Module]
    call: Callable[[nn.Module, int], object]  # a batch through the model, with its loss
    stacks: tuple[str, ...]
    logits: str = "logits"
    post_norm: bool = False
    pinned: tuple[int, ...] = ()
    convolutional: bool = False
    relative: bool = False  # of another family in the table, with the same finder

    @property
    def chain(self) -> bool:
        """Whether there is a lowest layer: one stack, or stacks that follow one another."""
        return self.convolutional or len(self.stacks) == 1

    def make(self, seed: int = 0) -> nn.Module:
        return copy.deepcopy(_made(self, seed))

    def loss(self, model: nn.Module, index: int) -> Tensor:
        return self.call(model, index).loss

    def outputs(self, model: nn.Module, index: int = 99) -> Tensor:
        """In eval mode, so that running statistics stay as they are."""
        training = model.training
        model.eval()
        with torch.no_grad():
            found = getattr(self.call(model, index), self.logits)
        model.train(training)
        return found


@functools.cache
def _made(family: Family, seed: int) -> nn.Module:
    """Building takes several times as long as copying."""
    torch.manual_seed(seed)
    return family.build()


def text(model: nn.Module, index: int) -> object:
    ids = tokens(index, length=6)
    return model(input_ids=ids, labels=ids)


def images(index: int, batch: int = 4, size: int = 16) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(index))


def picture(model: nn.Module, index: int) -> object:
    return model(pixel_values=images(index), labels=torch.arange(4) % 2)


def pair(model: nn.Module, index: int) -> object:
    return model(input_ids=tokens(index, batch=4, length=6), pixel_values=images(index), return_loss=True)


def clip() -> CLIPModel:
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config={**tower, "vocab_size": 50, "num_hidden_layers": 2, "max_position_embeddings": 16,
                     "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1},
        vision_config={**tower, "num_hidden_layers": 2, "image_size": 16, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
    return CLIPModel(config)


def marian() -> MarianMTModel:
    config = MarianConfig(
        vocab_size=50, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=32, dropout=0.0,
        pad_token_id=49, decoder_start_token_id=49, eos_token_id=0, forced_eos_token_id=0, use_cache=False,
    )  # fmt: skip
    return MarianMTModel(config)


def resnet(kind: str) -> ResNetForImageClassification:
    sizes = [64, 128] if kind == "bottleneck" else [16, 32]
    config = ResNetConfig(embedding_size=16, hidden_sizes=sizes, depths=[2, 3], layer_type=kind, num_labels=2)
    return ResNetForImageClassification(config)


def gpt2() -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=50, n_positions=32, n_embd=32, n_layer=LAYERS, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, use_cache=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def vit() -> ViTForImageClassification:
    shape = {name: value for name, value in ENCODER.items() if name not in {"vocab_size", "max_position_embeddings"}}
    return ViTForImageClassification(ViTConfig(**shape, image_size=16, patch_size=8, num_labels=2))


class OwnLayer(nn.Module):
    """Grouped queries fused with keys and values, gates fused with ups, biases; all by plain ``nn.Linear``."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_mlp = nn.LayerNorm(32), nn.LayerNorm(32)
        self.mixing = nn.ModuleDict({"qkv": nn.Linear(32, 32 + 2 * 16), "out": nn.Linear(32, 32)})
        self.gate_up, self.down = nn.Linear(32, 128), nn.Linear(64, 32)

    def forward(self, hidden: Tensor) -> Tensor:
        fused = self.mixing["qkv"](self.before_attention(hidden)).unflatten(-1, (-1, 8)).transpose(1, 2)
        number = fused.shape[1] // 4  # heads in the ratio 2 : 1 : 1
        query, key, value = fused.split((2 * number, number, number), dim=1)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        hidden = hidden + self.mixing["out"](mixed.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.before_mlp(hidden)).chunk(2, dim=-1)
        return hidden + self.down(nn.functional.silu(gate) * up)


class Own(nn.Module):
    """A model of nobody's family, which names its sites."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 32), nn.Linear(32, 50)
        self.body = nn.ModuleDict({"blocks": nn.ModuleList(OwnLayer() for _ in range(LAYERS))})
        self.checkpointing = False

    def gradient_checkpointing_enable(self) -> None:
        self.checkpointing = True

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embed(ids)
        for block in self.body["blocks"]:
            hidden = checkpoint(block, hidden, use_reentrant=False) if self.checkpointing else block(hidden)
        return self.head(hidden)

    def sat_structure(self) -> list[sat.Layers]:
        return [
            sat.Layers(
                "body.blocks",
                sat.Attention(fused="mixing.qkv", output="mixing.out", head_dim=8),
                sat.MLP(inputs=["gate_up"], output="down"),
            )
        ]


def own(model: nn.Module, index: int) -> object:
    ids = tokens(index, length=6)
    logits = model(ids)
    return SimpleNamespace(
        logits=logits, loss=nn.functional.cross_entropy(logits.flatten(0, 1), ids.roll(-1).flatten())
    )


STAGES = ("resnet.encoder.stages.0.layers", "resnet.encoder.stages.1.layers")

FAMILIES = {
    family.name: family
    for family in (
        Family("llama", lambda: LlamaForCausalLM(LlamaConfig(**DECODER)), text, ("model.layers",)),
        Family("mistral", lambda: MistralForCausalLM(MistralConfig(**DECODER)), text, ("model.layers",), relative=True),
        Family("qwen2", lambda: Qwen2ForCausalLM(Qwen2Config(**DECODER)), text, ("model.layers",), relative=True),
        Family(
            "qwen3",
            lambda: Qwen3ForCausalLM(Qwen3Config(**DECODER, head_dim=8)),
            text,
            ("model.layers",),
            relative=True,
        ),
        Family("gpt2", gpt2, text, ("transformer.h",)),
        Family("bert", lambda: BertForMaskedLM(BertConfig(**ENCODER)), text, ("bert.encoder.layer",), post_norm=True),
        Family(
            "roberta",
            lambda: RobertaForMaskedLM(RobertaConfig(**ENCODER)),
            text,
            ("roberta.encoder.layer",),
            post_norm=True,
            relative=True,
        ),
        Family("vit", vit, picture, ("vit.layers",)),
        Family("resnet", lambda: resnet("bottleneck"), picture, STAGES, pinned=(0, 1), convolutional=True),
        Family("resnet-basic", lambda: resnet("basic"), picture, STAGES, pinned=(1,), convolutional=True),
        Family("marian", marian, text, ("model.encoder.layers", "model.decoder.layers"), post_norm=True),
        Family(
            "t5",
            lambda: T5ForConditionalGeneration(T5Config(**T5)),
            text,
            ("encoder.block", "decoder.block"),
            pinned=(0, 1),
            relative=True,
        ),
        Family(
            "t5-gated",
            lambda: T5ForConditionalGeneration(T5Config(**T5, feed_forward_proj="gated-gelu")),
            text,
            ("encoder.block", "decoder.block"),
            pinned=(0, 1),
        ),
        Family(
            "clip",
            clip,
            pair,
            ("text_model.encoder.layers", "vision_model.encoder.layers"),
            logits="logits_per_image",
        ),
        Family("own", Own, own, ("body.blocks",)),
    )
}
