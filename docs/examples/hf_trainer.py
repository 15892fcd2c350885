"""SAT in the Hugging Face Trainer: ``python docs/examples/hf_trainer.py``."""

from __future__ import annotations

import tempfile

from tiny import Text, tiny_llama
from transformers import LlamaForCausalLM, Trainer, TrainingArguments

from sat import SATCallback, SATConfig

model = tiny_llama()
sat_callback = SATCallback(SATConfig(axis="width"))

with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder,
        max_steps=60,
        per_device_train_batch_size=8,
        learning_rate=3e-3,
        adam_beta2=0.95,
        logging_steps=5,
        eval_strategy="steps",
        eval_steps=30,
        save_steps=30,  # trainer.train(resume_from_checkpoint=True) goes on bit for bit
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=Text(480),
        eval_dataset=Text(32, held_out=True),
        callbacks=[sat_callback],
    )
    trainer.train()
    trainer.save_model(folder)
    saved = LlamaForCausalLM.from_pretrained(folder)  # plain: needs no sat

losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(sat_callback.report)
print(f"loss: first {losses[0]:.3f}, last {losses[-1]:.3f}")
print(f"parameters: {saved.num_parameters():,}")
