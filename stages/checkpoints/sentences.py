"""Sentences as vectors, in the space of a pretrained encoder."""

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from stages.checkpoints import pretrained
from stages.core.settings import Pretrained

BATCH = 64


@torch.inference_mode()
def embed(texts: list[str], teacher: Pretrained, tokenizer: Tokenizer, max_length: int) -> np.ndarray:
    """Unit vectors of the texts, shape (texts, width), float32: their dot products are cosines.

    The mean of the last hidden states over a text's tokens, special ones included, scaled to length 1, as
    all-MiniLM does it (Reimers and Gurevych, 2019, arXiv:1908.10084, section 3).
    """
    model = pretrained.encoder_of(pretrained.locate(teacher))
    tokenizer.no_padding()
    tokenizer.enable_truncation(pretrained.fitting(model, max_length))
    ids = [torch.tensor(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    vectors = np.empty((len(ids), model.config.hidden_size), np.float32)
    with tqdm(total=len(ids), desc="similarity", unit="query", delay=3, mininterval=1.0) as bar:
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            rows = [ids[i] for i in places]
            lengths = torch.tensor([len(row) for row in rows])
            batch = pad_sequence(rows, batch_first=True, padding_value=model.config.pad_token_id or 0)
            mask = torch.arange(batch.shape[1]) < lengths[:, None]
            hidden = model(input_ids=batch, attention_mask=mask.long()).last_hidden_state
            means = (hidden * mask[:, :, None]).sum(1) / lengths[:, None]
            vectors[places] = torch.nn.functional.normalize(means, dim=-1).numpy()
            bar.update(len(places))
    return vectors
