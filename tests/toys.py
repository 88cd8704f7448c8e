"Tiny language models, a collator and samples that stand in for a VLM and its batches."
from types import SimpleNamespace

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

CAPABILITIES = ("perception", "reasoning", "planning")


def tiny(layers=4, heads=2, seed=0, vocab=40, dropout=0.0):
    "A random language model in the form of a VLM; its `vision_modules` are the embeddings."
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=vocab, hidden_size=8 * heads, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2), initializer_range=0.3, attention_dropout=dropout, tie_word_embeddings=False))
    family = SimpleNamespace(vision_modules=lambda m: [m.model.embed_tokens], patches=lambda processor, sizes: [None] * 4)
    return SimpleNamespace(model=model.eval(), llm_layers=model.model.layers, family=family, processor=None,
                           attention_modules=[layer.self_attn for layer in model.model.layers])


class ToyBatch(SimpleNamespace):
    "What the library expects of a batch."
    def to(self, device): return ToyBatch(**{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in vars(self).items()})
    def model_inputs(self): return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}


def samples(n=12, capabilities=CAPABILITIES, length=12):
    "Made-up questions: token 0, four vision tokens, text, three answer tokens."
    def tokens(i): return [(7 * i + j * j) % 40 for j in range(length)]
    return [SimpleNamespace(id=f"q{i}", tokens=tokens(i), capability=capabilities[i % len(capabilities)]) for i in range(n)]


def collate(chosen):
    "Samples -> batch."
    ids = torch.tensor([s.tokens for s in chosen])
    places = torch.arange(ids.shape[1]).expand_as(ids)
    return ToyBatch(input_ids=ids, picture_inputs={}, attention_mask=torch.ones_like(ids), labels=torch.where(places > 8, ids, -100),
                    vision_mask=(places > 0) & (places < 5), capabilities=[s.capability for s in chosen], ids=[s.id for s in chosen])
